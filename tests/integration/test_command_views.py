"""Every command either prints nothing of a patient, or leaves an event that says who was shown whom."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import typer
from typer.testing import CliRunner

from broker.bootstrap import open_broker
from broker.cli import app
from broker.db.engine import database_url, open_engine
from broker.db.migrate import migrate
from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.workflow.audit_port import AuditQuestion
from broker.workflow.bulk_port import BulkOperation, BulkState
from broker.workflow.selection import Selection
from tests.builders import (
    NOW,
    a_delivery,
    a_message,
    a_message_delivery,
    a_patient,
    a_stored_entry,
    an_instance,
)

STUDY = "1.2.826.0.77.4711"
CANARIES = ("ZZCANARY", "BIRDID7", "18970409", "CANACC7", STUDY)
RAW = b"MSH|^~\\&|RIS|H|B|H|20261121||ORM^O01|M1|P|2.5\rPID|1||BIRDID7||ZZCANARY^ANN||18970409\r"
SITE = """
site: { name: X }
devices: [{ ae_title: CT1, modality: CT }]
destinations: { archive: { kind: folder, path: copies } }
routes: [{ name: everything, when: { Modality: CT }, send: [archive] }]
"""

SHOWS = {
    "orders list": "",
    "orders show": "1",
    "orders timeline": "1",
    "worklist list": "",
    "worklist print": "--day {today:%Y-%m-%d}",
    "worklist explain": "1 CT1",
    "images list": "",
    "images show": STUDY,
    "images timeline": STUDY,
    "find": "BIRDID7",
    "messages list": "",
    "messages show": "1",
    "messages sent": "",
    "messages explain": "1",
    "deliveries list": "--json",
    "deliveries show": "1 --json",
    "destinations show": "archive --json",
    "devices worklist": "CT1",
    "operations list": "--json",
    "operations show": "1 --json",
    "routes list": "--json",
    "routes explain": STUDY,
    "routes try": STUDY,
}
"""What prints something of a patient, and how it is asked."""
LEADS = {
    "messages explain",
    "images timeline",
    "orders timeline",
    "worklist explain",
    "messages list",
    "messages sent",
    "routes list",
    "routes explain",
    "routes try",
}
"""They may print no name, but what became of one patient."""
SHOWS_NOBODY = {
    "alerts list", "alerts ack", "alerts test", "captures list", "captures start", "captures stop", "captures delete", "captures download", "certificates list", "maintenance list", "maintenance add", "maintenance end",
    "audit verify", "audit list", "audit collectors", "backup", "restore", "completion", "config check", "config history", "config show",
    "config diff", "config apply", "config rollback", "db migrate", "alerts show", "deliveries retry", "deliveries cancel", "deliveries causes", "deliveries release", "deliveries retarget", "deliveries priority", "devices admissions", "operations stop", "overview", "sources list",
    "demo", "destinations list", "destinations check", "destinations pause", "destinations drain",
    "destinations resume", "devices list", "devices knocks", "devices show", "devices admit", "devices end",
    "devices passport", "handover", "health", "hl7 send", "probe", "run", "serve", "support-bundle", "tokens list", "tokens issue",
    "tokens revoke", "users list", "users add", "users role", "users disable", "users enable", "users password", "users sessions", "users sign-out",
}  # fmt: skip
READS = (
    "alerts list",
    "certificates list",
    "deliveries causes",
    "devices admissions",
    "overview",
    "sources list",
    "maintenance list",
    "audit verify",
    "destinations list",
    "devices list",
    "devices knocks",
    "handover",
    "health",
    "tokens list",
    "users list",
)


def commands(group, before=""):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name


@pytest.fixture
def site(tmp_path):
    config, data = tmp_path / "broker.yaml", tmp_path / "data"
    today = datetime.now(UTC)  # a device is shown what begins today: the commands run by the real clock
    data.mkdir()
    config.write_text(SITE)
    engine = open_engine(database_url(data))
    migrate(engine)
    engine.dispose()
    with open_broker(config, data, role="cli") as broker, broker.units_of_work() as uow:
        known = uow.patients.add(
            replace(a_patient(7), patient_id="BIRDID7", name="ZZCANARY^ANN", birth_date="18970409"), now=NOW
        )
        entry = a_stored_entry(
            uow,
            7,
            patient=known,
            order={"accession_number": "CANACC7"},
            procedure={"study_instance_uid": STUDY},
            step={"start_date": f"{today:%Y%m%d}"},
        )
        uow.messages.add(a_message(1, order=entry.order.id, raw=RAW))
        told = {"study_instance_uid": STUDY, "patient_id": "BIRDID7"}
        uow.instances.add_many([an_instance(1, order=entry.order.id, **told)])
        dead = {"state": DeliveryState.DEAD, "attempt": 3, "reason": "refused", "study_instance_uid": STUDY}
        uow.deliveries.add(a_delivery(1, **dead), now=NOW)
        uow.deliveries.add(a_message_delivery(None, 3, order=entry.order.id, payload=RAW), now=NOW)
        told = {"destination": "archive", "attempt": 3, "reason": "AE: ZZCANARY is not known here"}
        uow.record(Event(EventName.DELIVERY_DIED, Subject.DELIVERY, 1, STUDY, details=told))
        meant = Selection(study_instance_uid=STUDY)
        uow.bulk.add(BulkOperation(0, "retry", meant, {}, "anna", None, BulkState.DONE, 1, NOW, NOW))
        uow.commit()
    return config, data


def run(site, command, arguments=""):
    config, data = site
    arguments = arguments.format(today=datetime.now(UTC))
    asked = [*command.split(), *arguments.split(), "-c", str(config), "-d", str(data)]
    return CliRunner().invoke(app, asked, catch_exceptions=False)


def views(site):
    with open_broker(*site, role="cli") as broker:
        return list(broker.reports.audit(AuditQuestion(what="viewed"), limit=500))


def test_every_command_is_said_to_print_a_patient_or_not_to():
    known = set(commands(typer.main.get_command(app)))
    assert set(SHOWS) | SHOWS_NOBODY == known, "say of each new command whether it prints a patient"
    assert not set(SHOWS) & SHOWS_NOBODY


def test_what_prints_a_patient_leaves_a_view(site):
    seen = shown = 0
    for command, arguments in SHOWS.items():
        done = run(site, command, arguments)
        assert done.exit_code == 0 or command.startswith("routes"), (command, done.output)
        assert command in LEADS or [one for one in CANARIES if one in done.output], command
        if done.exit_code:
            continue  # nothing is known of the study here: nothing was printed
        new = views(site)[: -seen or None]
        assert 1 <= len(new) <= 4, (command, [view.details for view in new])
        assert new[0].details["page"] == f"broker {command}"
        assert new[0].actor.endswith("(command line)")
        assert len(json.dumps(dict(new[0].details))) < 1000
        seen += len(new)
        shown += 1
    assert shown >= len(SHOWS) - 2


def test_what_is_said_to_print_nobody_prints_nobody(site):
    for command in READS:
        output = run(site, command).output
        assert not [one for one in CANARIES if one in output], command
    assert views(site) == []
