"""The numbers for Prometheus on both databases; documents, rules and dashboard name what there is."""

import json
import re
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from broker.db.reports import SqlReports
from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.domain.knocks import KnockReason
from broker.prometheus import FOR_S, Metrics
from broker.prometheus.gauges import MOST_NAMES, OTHER
from broker.workflow.alert_conditions import Certificate
from broker.workflow.audit_collectors import CollectorLine
from broker.workflow.destinations_port import DestinationHealth, DestinationState
from broker.workflow.devices_port import Admission, KnockKey, Knocks
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.overview_port import HealthPart, Resource
from broker.workflow.probe_port import PROBE, Hop, ProbeRun
from tests.builders import NOW, a_delivery, a_message, a_stored_entry, an_instance

ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"worklist_broker_\w+")


@pytest.fixture
def metrics(engine, clock, tmp_path):
    reports = SqlReports(engine, destinations=["film"])
    health = [HealthPart("hl7", True, ""), HealthPart("web", False, "")]
    siem = CollectorLine("siem", "siem:6514", "tls", "failing", 3, NOW - timedelta(seconds=90), None, NOW, "")
    return Metrics(
        SimpleNamespace(reports=reports, clock=clock, zone=UTC, data_dir=tmp_path),
        health=lambda: health,
        resources=lambda: [Resource("Disk", "filling", "")],
        certificates=lambda: [
            Certificate("listen.web.tls", NOW + timedelta(days=9)),
            Certificate("listen.hl7.tls", None, "gone"),
        ],
        collectors=lambda: [siem],
    )


def values(metrics):
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name.removeprefix("worklist_broker_"), tuple(sample.labels.values())): sample.value
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
        a_stored_entry(uow, 1, step={"start_date": NOW.strftime("%Y%m%d")})
        for actor in ("CT1", "CT1", "MR1", PROBE):
            uow.record(Event(EventName.WORKLIST_QUERIED, Subject.DEVICE, actor=actor))
        uow.record(Event(EventName.MPPS_CREATED, Subject.PERFORMED_STEP, actor="CT1"))
        key = KnockKey("STRANGER", "BROKER", "10.0.0.9", KnockReason.UNKNOWN_TITLE)
        uow.devices.note_knocks([Knocks(key, 7, NOW, NOW)])
        admission = Admission(0, "LOANER", "10.0.0.8", NOW, NOW + timedelta(hours=1), "loaner", "ruiz")
        uow.devices.admit(admission)
        run = ProbeRun(0, "2.25.1", "PROBE1", "broker", NOW)
        hops = (Hop("order", True, 0.25, ""), Hop("worklist", False, 0.5, "refused"))
        run = replace(run, id=uow.probes.add(run), ended_at=NOW, failed_hop="worklist", hops=hops)
        uow.probes.keep(run)
        uow.commit()
    found = values(metrics)
    assert found["role_up", ("hl7",)] == 1
    assert found["role_up", ("web",)] == 0
    assert found["messages_last_hour", ("accepted",)] == 2
    assert found["messages_last_hour", ("refused",)] == 1
    assert found["instances_last_hour", ()] == 2
    assert found["received_bytes_last_hour", ()] == 1500
    assert found["deliveries", ("archive", "PENDING")] == 1
    assert found["deliveries", ("archive", "DEAD")] == 1
    assert found["delivered_last_hour", ("archive",)] == 1
    assert found["failures_last_hour", ("archive", "transient")] == 1
    assert found["destination_state", ("archive", "paused")] == 1
    assert found["destination_state", ("film", "up")] == 1
    assert found["oldest_delivery_seconds", ("archive",)] == 300
    assert found["audit_collector_up", ("siem",)] == 0
    assert found["audit_collector_waiting", ("siem",)] == 3
    assert found["audit_collector_oldest_seconds", ("siem",)] == 90
    assert found["destination_held_seconds", ("archive",)] == 0
    assert found["delivery_seconds_last_hour_bucket", ("archive", "1.0")] == 1
    assert found["delivery_seconds_last_hour_bucket", ("archive", "+Inf")] == 1
    assert found["orders_last_hour", ("SCHEDULED",)] == 1
    assert found["steps_today", ("SCHEDULED",)] == 1
    assert found["steps_urgent", ("incomplete STAT",)] == 0
    assert found["queries_last_hour", ("CT1",)] == 2
    assert found["exams_last_hour", ("performed step created",)] == 1
    assert found["refused_peers_last_hour", ("unknown_title",)] == 1
    assert found["refused_peers_last_hour", ("busy",)] == 0
    assert found["devices_admitted", ()] == 1
    assert found["needs_person", ("dead deliveries",)] == 1
    assert found["resource_state", ("disk", "filling")] == 1
    assert found["disk_free_bytes", ()] > 0
    assert (
        found["certificate_ends_timestamp_seconds", ("listen.web.tls",)]
        == (NOW + timedelta(days=9)).timestamp()
    )
    assert found["probe_ok", ()] == 0
    assert found["probe_failed_hop", ("worklist",)] == 1
    assert found["probe_hop_seconds", ("worklist",)] == 0.5
    assert found["peer_last_heard_timestamp_seconds", ("HOSP", "sender", "RIS")] == NOW.timestamp()
    assert not [key for key in found if PROBE in key[1]]


def test_peers_under_ever_new_names_fill_no_monitoring(metrics, uow_factory):
    with uow_factory() as uow:
        for number in range(3 * MOST_NAMES):
            uow.record(Event(EventName.WORKLIST_QUERIED, Subject.DEVICE, actor=f"X{number}"))
        uow.commit()
    queries = {key[1][0]: value for key, value in values(metrics).items() if key[0] == "queries_last_hour"}
    assert len(queries) == MOST_NAMES + 1
    assert queries[OTHER] == 2 * MOST_NAMES


def test_asked_often_the_database_is_asked_once_in_five_seconds(metrics, uow_factory, clock):
    first = metrics.text()
    with uow_factory() as uow:
        uow.messages.add(a_message(1))
        uow.commit()
    assert metrics.text() == first
    clock.advance(FOR_S)
    assert metrics.text() != first


def rules():
    """The rules as Prometheus reads them."""
    (group,) = YAML(typ="safe", pure=True).load((ROOT / "config/prometheus/alerts.yaml").read_text())[
        "groups"
    ]
    return group["rules"]


def test_documents_rules_and_dashboard_name_what_there_is(metrics):
    text = metrics.text().decode()
    table = re.findall(r"^\| `(\w+)` \| (.+?) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    labels = {name: set(re.findall(r"`(\w+)`", said)) for name, said in table}
    served = set(re.findall(r"^# HELP (\w+)", text, re.MULTILINE))
    served -= {f"{name}_{part}" for name in served for part in ("gcount", "gsum")}  # of histograms
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    assert documented == served
    for path in ("config/prometheus/alerts.yaml", "config/grafana/worklist-broker.json"):
        named = {name.removesuffix("_bucket") for name in _NAME.findall((ROOT / path).read_text())}
        assert named
        assert named <= served, path
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert set(rule["annotations"]) == {"summary"}, rule
        assert rule["labels"]["severity"] in {"critical", "warning"}
        said = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        of_metric = [labels[name] for name in _NAME.findall(rule["expr"]) if name in labels]
        assert all(said <= known for known in of_metric), rule
    panels = json.loads((ROOT / "config/grafana/worklist-broker.json").read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len({panel["id"] for panel in panels}) == len(set(places)) == len(panels)
