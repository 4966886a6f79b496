"""The wired broker in this process with a small hospital in its database: what the JSON API is asked about."""

import json
import shutil
from contextlib import contextmanager
from datetime import timedelta

from fastapi.testclient import TestClient

from broker.bootstrap import migrate_database, open_broker
from broker.dashboard import dashboard
from broker.domain.access import Role
from broker.domain.alerts import Alert, AlertKind, AlertState, Severity
from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.domain.knocks import KnockReason
from broker.web.app import create_app
from broker.workflow.alert_operations import Planned
from broker.workflow.bulk import Wanted
from broker.workflow.captures import MOST_MINUTES, WantedCapture
from broker.workflow.configuration import digest
from broker.workflow.devices import Welcome
from broker.workflow.devices_port import KnockKey, Knocks
from broker.workflow.images_port import InstanceState
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.operations import Act
from broker.workflow.probe_port import Hop, ProbeRun
from broker.workflow.selection import Selection
from tests.builders import (
    a_delivery,
    a_message,
    a_message_delivery,
    a_stored_entry,
    an_instance,
)
from tests.doors import TESTER
from tests.ports import free_port
from tests.syslog_collector import certificate

STUDY = "1.2.826.0.1.1"
ORM = (
    b"MSH|^~\\&|RIS|HOSP|BROKER|HOSP|20261121080000||ORM^O01|M1|P|2.5.1\rPID|||PID1^^^HOSP||HAYDN1^JOSEPH\r"
    b"ORC|NW|P1|F1\rOBR|1|P1|F1|CT^CT CHEST\r"
)


def a_site():
    """A site file: two devices, destinations of every kind with nobody behind them, two routes, a certificate."""
    dead = free_port()
    address = {"host": "127.0.0.1", "port": dead}
    return {
        "site": {"name": "API Hospital", "timezone": "UTC", "ae_title": "BROKER"},
        "listen": {name: {"port": free_port()} for name in ("hl7", "dicom", "web")},
        "devices": [{"ae_title": "CT1", "modality": "CT"}, {"ae_title": "MR/1", "modality": "MR"}],
        "destinations": {
            "archive": {"kind": "dicom", **address, "called_ae_title": "ARCHIVE"},
            "second": {"kind": "dicom", **address, "called_ae_title": "SECOND"},
            "copies": {"kind": "folder", "path": "copies"},
            "ris": {"kind": "mllp", **address},
        },
        "routes": [
            {"name": "everything", "when": {"Modality": "CT"}, "send": ["archive"]},
            {"name": "mr", "when": {"Modality": "MR"}, "send": ["second"]},
        ],
        "alerts": {"webhook": {"url": f"https://localhost:{dead}/hook", "ca": "cert.pem"}},
    }


@contextmanager
def api_site(folder, template=None):
    """Open the broker on a new database in `folder`; with a migrated SQLite file to copy, that is quick."""
    config, data_dir = folder / "broker.yaml", folder / "data"
    config.write_text(json.dumps(a_site()))
    certificate(folder)
    data_dir.mkdir()
    if template is not None:
        shutil.copyfile(template, data_dir / "broker.sqlite3")
    migrate_database(config, data_dir)
    with open_broker(config, data_dir, role="web") as broker:
        fill(broker)
        yield broker


def token(broker, role=Role.ADMIN):
    """Answer a new token of a role."""
    return broker.access.tokens.issue(f"a {role.value}", role, life=timedelta(days=1), by=TESTER)[1]


def program(broker, role=Role.ADMIN, **options):
    """A program with a token of a role."""
    headers = {"authorization": f"Bearer {token(broker, role)}", "host": "127.0.0.1"}
    app = create_app(dashboard(broker))
    # from this machine: nobody is told to slow down
    options = {"client": ("127.0.0.1", 50_000), "raise_server_exceptions": False, **options}
    return TestClient(app, headers=headers, **options)


def fill(broker):
    """Store at least two rows of every list."""
    now = broker.clock.now()
    today = f"{broker.clock.local_now():%Y%m%d}"
    with broker.units_of_work() as uow:
        entries = [
            a_stored_entry(uow, number, step={"start_date": today}, now=now + timedelta(seconds=number))
            for number in (1, 2, 3)
        ]
        order = entries[0].order.id
        uow.messages.add(a_message(1, order=order, raw=ORM, received_at=now))
        uow.messages.add(a_message(2, outcome=MessageOutcome.PARKED, raw=ORM, received_at=now))
        images = [
            an_instance(
                n, order=order, received_at=now, last_received_at=now, path=f"{today}/0000/{n:032x}.dcm"
            )
            for n in (1, 2)
        ]
        images.append(
            an_instance(
                3, study_instance_uid="1.2.826.0.1.9", patient_id=None, path=f"{today}/0000/{3:032x}.dcm"
            )
        )
        stored = uow.instances.add_many(images)
        uow.instances.decide(stored[2], InstanceState.UNROUTED, order=None)
        dead = uow.deliveries.add(
            a_delivery(1, state=DeliveryState.DEAD, reason="association rejected", items=2, created_at=now),
            now=now,
        )
        uow.deliveries.add_items(dead, stored[:2])
        for number, state in ((2, DeliveryState.DEAD), (3, DeliveryState.DELIVERED)):
            uow.deliveries.add(
                a_delivery(
                    number, destination="second", state=state, reason="out of resources", created_at=now
                ),
                now=now,
            )
        uow.deliveries.add(
            a_delivery(4, state=DeliveryState.COLLECTING, collect_until=now + timedelta(hours=1), due_at=now),
            now=now,
        )
        for number in (1, 2):
            uow.deliveries.add(a_message_delivery(f"A{number}", number, created_at=now), now=now)
        for name in (EventName.DELIVERY_CREATED, EventName.DELIVERY_DIED):
            uow.record(Event(name, Subject.DELIVERY, subject_id=dead, study_instance_uid=STUDY))
        for number in (1, 2):
            key = KnockKey(f"LOANER{number}", "BROKER", f"192.0.2.{number}", KnockReason.UNKNOWN_TITLE)
            uow.devices.note_knocks([Knocks(key, number, now, now)])
            run = uow.probes.add(ProbeRun(0, f"1.2.99.{number}", f"PROBE{number}", "tester", now))
            hop = Hop("order", True, 0.1, "AA")
            uow.probes.keep(
                ProbeRun(run, f"1.2.99.{number}", f"PROBE{number}", "tester", now, now, None, (hop,))
            )
            for state in (AlertState.RAISED, AlertState.RECOVERED):
                uow.alerts.add(an_alert(f"thing {number} {state.value}", state, now))
        uow.commit()
    broker.configurations.take_up(digest("{}"), "{}")
    broker.configurations.take_up(broker.loaded.sha256, broker.loaded.body)
    for number in (1, 2):
        broker.actions.admit(Welcome(f"GUEST{number}", "192.0.2.9", timedelta(hours=2), "a loaner", "tester"))
        ends_at = now + timedelta(days=number)
        broker.alerts.plan(Planned(ends_at, "new disks", "tester", "archive"))
        broker.captures.start(
            WantedCapture("dicom", f"CT{number}", "", MOST_MINUTES, "a broken image", "tester")
        )
        broker.actions.start(Wanted(Act.PRIORITY, Selection(destination="second"), "tester", priority=1))


def an_alert(subject, state, now):
    """Build an alert that is not stored yet."""
    return Alert(
        id=0,
        kind=AlertKind.FAILING,
        subject=subject,
        state=state,
        severity=Severity.WARNING,
        headline=f"{subject} fails",
        action="look at it",
        link="/destinations/archive",
        first_seen_at=now,
        updated_at=now,
        raised_at=now,
        recovered_at=now if state is AlertState.RECOVERED else None,
    )
