"""What adapters are tested among: logging that stays that of the tests, a stored file that cannot be read for a while,
a hospital behind the pages, an MLLP listener."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.actions import Actions
from broker.db.reports import SqlReports
from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.web.app import create_app
from broker.web.ports import Dashboard
from broker.workflow.alert_operations import AlertOperations
from broker.workflow.destinations_port import CheckResult
from broker.workflow.images_port import InstanceState
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.overview_port import HealthPart, Resource
from tests.builders import NOW, a_delivery, a_message, a_stored_entry, an_instance
from tests.doors import an_access, signed_in, with_accounts
from tests.integration.hospital_pages import FACTS, STUDY, WHY, Insight
from tests.integration.mllp_listener import Running


@pytest.fixture(autouse=True)
def logging_of_the_tests(monkeypatch) -> None:
    """A command run in this process would bind every logger to its own output, which is closed when it ends."""
    monkeypatch.setattr("broker.logs.configure_logging", lambda **_: None)


@pytest.fixture
def unopenable(monkeypatch) -> Callable[..., AbstractContextManager[None]]:
    """Let one path fail with an error number while the block runs, from its opening number `first` (from 0) on."""
    true_open = Path.open

    @contextmanager
    def failing(path: Path, number: int, *, first: int = 0, when_read: bool = False) -> Iterator[None]:
        class Failing(io.FileIO):
            def readinto(self, buffer):
                raise OSError(number, os.strerror(number))

        opened = 0

        def open_or_fail(self, *args, **kwargs):
            nonlocal opened
            if self != path:
                return true_open(self, *args, **kwargs)
            opened += 1
            if opened <= first:
                return true_open(self, *args, **kwargs)
            if when_read:
                return Failing(self)
            raise OSError(number, os.strerror(number), str(self))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", open_or_fail)
            yield
        assert opened > first, "nobody opened it"

    return failing


@pytest.fixture
def actions(sqlite_engine, sqlite_uow_factory, clock):
    """What people may do, as it is wired, with one archive configured."""
    archive = SimpleNamespace(kind="dicom", concurrency=2)
    return Actions(
        SimpleNamespace(
            units_of_work=sqlite_uow_factory,
            clock=clock,
            reports=SqlReports(sqlite_engine),
            check_destination=lambda name: CheckResult(ok=True, detail=f"{name} is here"),
            loaded=SimpleNamespace(site=SimpleNamespace(destinations={"archive": archive})),
        )
    )


@pytest.fixture
def board(sqlite_engine, sqlite_uow_factory, actions, clock, tmp_path):
    return Dashboard(
        reports=SqlReports(sqlite_engine),
        actions=actions,
        destination=lambda name: FACTS if name == "archive" else None,
        health=lambda: [HealthPart("hl7", True, "port 2575 answers", NOW)],
        explain=lambda study: WHY if study == STUDY else [],
        insight=Insight(sqlite_engine, clock),
        clock=clock,
        zone=UTC,
        site_name="Hospital <b>",
        hosts=frozenset({"testserver"}),
        version="1.2.3",
        resources=lambda: [Resource("Disk", "up", "4.2 TB free")],
        access=with_accounts(an_access(sqlite_engine, sqlite_uow_factory, clock, tmp_path)),
        alerts=AlertOperations(sqlite_uow_factory, clock, {}, "Hospital"),
    )


@pytest.fixture
def client(board):
    return signed_in(create_app(board), "operator")


@pytest.fixture
def store(sqlite_uow_factory):
    """Store something in a transaction of its own: `store(lambda uow: …)`."""

    def run(action):
        with sqlite_uow_factory() as uow:
            answer = action(uow)
            uow.commit()
        return answer

    return run


@pytest.fixture
def hospital(store):
    """One of everything, a dead delivery among it; answers its ids."""

    def make(uow):
        entry = a_stored_entry(uow, 1)
        a_stored_entry(uow, 2, step={"missing": ("Modality",)})
        message = uow.messages.add(a_message(1, order=entry.order.id))
        uow.messages.add(
            a_message(
                2,
                outcome=MessageOutcome.REFUSED,
                acknowledgement_code="AE",
                problems=(
                    {
                        "condition": "101",
                        "severity": "error",
                        "place": "PID-3.1",
                        "text": "a patient identifier is needed",
                    },
                ),
            )
        )
        uow.messages.add(a_message(3, outcome=MessageOutcome.PARKED))
        (instance,) = uow.instances.add_many([an_instance(1, order=entry.order.id)])
        (lost,) = uow.instances.add_many(
            [an_instance(2, study_instance_uid="1.2.826.0.1.9", patient_id=None)]
        )
        uow.instances.decide(lost, InstanceState.UNROUTED, order=None)
        dead = uow.deliveries.add(
            a_delivery(1, state=DeliveryState.DEAD, reason="association rejected", attempt=3), now=NOW
        )
        waiting = uow.deliveries.add(
            a_delivery(2, due_at=NOW + timedelta(hours=1), route="other", reason="no answer"), now=NOW
        )
        done = uow.deliveries.add(a_delivery(3, state=DeliveryState.DELIVERED), now=NOW)
        for name in (EventName.DELIVERY_CREATED, EventName.DELIVERY_DIED):
            uow.record(
                Event(
                    name,
                    Subject.DELIVERY,
                    subject_id=dead,
                    study_instance_uid=STUDY,
                    details={"destination": "archive", "reason": "association rejected"},
                )
            )
        return {
            "order": entry.order.id,
            "message": message.id,
            "instance": instance,
            "dead": dead,
            "waiting": waiting,
            "done": done,
        }

    return store(make)


@pytest.fixture
def app(board):
    return create_app(board)


@pytest.fixture
def running(clock):
    with Running(clock) as running:
        yield running


@pytest.fixture
def certificate(tmp_path):
    """A certificate for localhost and its key."""
    path = tmp_path / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", path],
        check=True, capture_output=True,
    )  # fmt: skip
    return path, tmp_path / "key.pem"
