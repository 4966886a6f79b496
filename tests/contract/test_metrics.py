"""The numbers for Prometheus on both databases; documents, rules and dashboard name what there is."""

import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.db.reports import SqlReports
from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.prometheus import FOR_S, Metrics
from broker.workflow.overview_port import HealthPart
from broker.workflow.ports import DestinationHealth, DestinationState, MessageOutcome
from tests.builders import NOW, a_delivery, a_message, an_instance

ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"worklist_broker_\w+")


@pytest.fixture
def metrics(engine, clock):
    reports = SqlReports(engine, destinations=["film"])
    health = [HealthPart("hl7", True, ""), HealthPart("web", False, "")]
    return Metrics(SimpleNamespace(reports=reports, clock=clock), lambda: health)


def values(metrics):
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_number_is_told(metrics, uow_factory):
    early = NOW - timedelta(hours=2)
    with uow_factory() as uow:
        for number, outcome in enumerate(
            [MessageOutcome.ACCEPTED, MessageOutcome.ACCEPTED, MessageOutcome.REFUSED]
        ):
            uow.messages.add(a_message(number, outcome=outcome))
        uow.messages.add(a_message(9, received_at=early))
        uow.instances.add_many([an_instance(1, size_bytes=1000), an_instance(2, size_bytes=500)])
        uow.deliveries.add(a_delivery(1, due_at=NOW - timedelta(minutes=5)), now=NOW)
        uow.deliveries.add(a_delivery(2, state=DeliveryState.DEAD), now=NOW)
        uow.deliveries.add(a_delivery(3, state=DeliveryState.DELIVERED), now=NOW)
        uow.deliveries.add(a_delivery(4, state=DeliveryState.DELIVERED), now=early)
        uow.destinations.save(DestinationState("archive", DestinationHealth.PAUSED, since=NOW))
        details = {"destination": "archive", "failure_class": "transient"}
        uow.record(Event(EventName.DELIVERY_RETRY, Subject.DELIVERY, details=details))
        uow.commit()
    found = values(metrics)
    prefix = "worklist_broker_"
    assert found[f"{prefix}role_up", ("hl7",)] == 1
    assert found[f"{prefix}role_up", ("web",)] == 0
    assert found[f"{prefix}messages_last_hour", ("accepted",)] == 2
    assert found[f"{prefix}messages_last_hour", ("refused",)] == 1
    assert found[f"{prefix}instances_last_hour", ()] == 2
    assert found[f"{prefix}received_bytes_last_hour", ()] == 1500
    assert found[f"{prefix}deliveries", ("archive", "PENDING")] == 1
    assert found[f"{prefix}deliveries", ("archive", "DEAD")] == 1
    assert found[f"{prefix}delivered_last_hour", ("archive",)] == 1
    assert found[f"{prefix}failures_last_hour", ("archive", "transient")] == 1
    assert found[f"{prefix}destination_state", ("archive", "paused")] == 1
    assert found[f"{prefix}destination_state", ("film", "up")] == 1
    assert found[f"{prefix}oldest_delivery_seconds", ("archive",)] == 300


def test_asked_often_the_database_is_asked_once_in_five_seconds(metrics, uow_factory, clock):
    first = metrics.text()
    with uow_factory() as uow:
        uow.messages.add(a_message(1))
        uow.commit()
    assert metrics.text() == first
    clock.advance(FOR_S)
    assert metrics.text() != first


def test_documents_rules_and_dashboard_name_what_there_is(metrics):
    served = set(re.findall(r"^# HELP (\w+)", metrics.text().decode(), re.MULTILINE))
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    assert documented == served
    for path in ("config/prometheus/alerts.yaml", "config/grafana/worklist-broker.json"):
        named = set(_NAME.findall((ROOT / path).read_text()))
        assert named
        assert named <= served, path
