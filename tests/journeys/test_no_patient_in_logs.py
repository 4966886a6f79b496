"""No log line at INFO, metric, notice or shared page names a person, whatever comes in and whatever goes wrong."""

import contextlib
import json
import shutil
import socket
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, StoragePresentationContexts, evt
from sqlalchemy import text

from broker.db.engine import database_url, open_engine
from broker.dicom.network.client import Proposal, open_association
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.failures import AssociationError
from broker.dicom.objects.elements import Syntax
from tests.broker_process import PASSWORD, RunningBroker, wait_until
from tests.data_sets import pydicom_reads, pydicom_writes
from tests.documented_logs import LINKING, documented
from tests.journeys.hl7_orders import orm
from tests.journeys.images import an_image
from tests.ledger.lines import report_once, send_once
from tests.ledger.modality import a_creation
from tests.peers import MllpSink, findscu, run
from tests.ports import free_port
from tests.webhook_receiver import a_hook

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(400)]
CANARY, BIRTH = "ZZCANARY", "18970409"
SECRET, GUESSED = "the-secret-of-the-hook", "a-password-typed-in-haste"
PERSON = {"patient_id": f"{CANARY}1", "name": f"{CANARY}^BIRD", "birth": BIRTH}
IMAGE = {"PatientID": f"{CANARY}1", "PatientName": f"{CANARY}^BIRD", "PatientBirthDate": BIRTH}
WORKLIST, CT = "1.2.840.10008.5.1.4.31", "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="module")
def folder(services, tmp_path_factory):
    path = tmp_path_factory.mktemp("c")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def gossip():
    """An archive that refuses everything and names the patient in its answer."""

    def refuse(event):
        answer = Dataset()
        answer.Status = 0xC001
        answer.ErrorComment = f"{CANARY}^BIRD {BIRTH} is unknown"
        return answer

    ae = AE("GOSSIP")
    ae.supported_contexts = StoragePresentationContexts
    port = free_port()
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, refuse)])
    yield port
    server.shutdown()


@pytest.fixture(scope="module")
def ris(services):
    sink = MllpSink(code="AE", text=f"{CANARY}^BIRD is unknown")
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def hook(services):
    with a_hook() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def broker(services, folder, gossip, ris, hook):
    quick = {"first": "1s", "cap": "2s"}
    peer = {"kind": "dicom", "host": "127.0.0.1", "retry": quick}
    site = {
        "site": {"ae_title": "BROKER"},
        "completion": {"series_quiet": "1s", "study_quiet": "1s", "cap": "1m"},
        "devices": [{"ae_title": "CT1", "modality": "CT"}],
        "destinations": {
            "gossip": {**peer, "port": gossip, "called_ae_title": "GOSSIP"},
            "nobody": {**peer, "port": free_port(), "called_ae_title": "NOBODY"},
            "film": {
                "kind": "print",
                "host": "127.0.0.1",
                "port": free_port(),
                "called_ae_title": "FILM",
                "retry": quick,
            },
            "copies": {"kind": "folder", "path": "copies"},
            "ris": {"kind": "mllp", "host": "127.0.0.1", "port": ris.port, "retry": quick},
        },
        "alerts": {"webhook": {"url": f"http://127.0.0.1:{hook.server_port}/"}},
        "feedback": {"destination": "ris", "message": "ORM^O01"},
        "routes": [
            {
                "name": "canaries",
                "when": {"PatientID": f"{CANARY}*"},
                "send": ["gossip", "nobody", "film", "copies"],
            }
        ],
    }
    running = RunningBroker(Path(folder), site, {**services, "BROKER_ALERTS_WEBHOOK_SECRET": SECRET})
    try:
        yield running.start()
    finally:
        running.stop()


def test_no_log_metric_or_notice_names_a_person_or_a_secret(broker, hook, tmp_path):
    good_and_bad_orders(broker)
    queries(broker)
    steps(broker)
    images(broker, tmp_path)
    wait_until(
        lambda: (
            {"gossip", "nobody", "ris"} <= {r["destination"] for r in broker.api("deliveries") if r["reason"]}
        ),
        timeout_s=40,
        what="failed deliveries",
    )
    with without_table(broker, "patient"):
        assert send_once(broker.hl7, orm(accession=f"{CANARY}X", **PERSON)) in {None, "AE", "AR"}
    with without_table(broker, "performed_procedure_step"):
        report(broker, generate_uid(), creation(STEP))
    with without_table(broker, "instance"):
        path, _ = an_image(tmp_path, **IMAGE)
        run("storescu", "-aet", "CT1", "-aec", "BROKER", "127.0.0.1", broker.dicom, path, check=False)
    broker.cli("deliveries", "list")
    looks(broker)
    told = {path: fetched(broker, path)[1] for path in OF_NOBODY}

    assert broker.stop() == 0, broker.tail()
    lines = broker.log.read_text(errors="replace").splitlines()
    seen = {json.loads(line)["event"] for line in lines if line.startswith("{")}
    assert {"delivery sent", "performed step refused"} <= seen, "the flows left no trace in the log"
    assert any("failed" in event or "not stored" in event or "not kept" in event for event in seen), seen
    leaks = [line for line in lines if CANARY.lower() in line.lower() or BIRTH in line]
    assert not leaks, "\n".join(leaks[:20])
    named = [path for path, body in told.items() if CANARY in body or BIRTH in body]
    named += [body.decode() for _, _, body in hook.seen if CANARY.encode() in body]
    assert not named, named
    secrets = (PASSWORD, SECRET, broker.cookie.partition("=")[2], GUESSED)
    assert not [line for line in lines if any(secret in line for secret in secrets)]
    every_line_leads_somewhere(lines)


OF_NOBODY = (
    "/", "/overview/live", "/handover", "/alerts", "/devices", "/metrics", "/healthz", "/openapi.json",
    "/api/overview", "/api/handover", "/api/alerts", "/api/alerts/over", "/api/sources", "/api/destinations",
    "/api/devices", "/api/knocks", "/api/probe", "/admin",
)  # fmt: skip
"""What is told to whoever passes by, a program or another system."""


def fetched(broker, path):
    status, _, body = broker._ask("GET", path, None, {"Cookie": broker.sign_in(), "Accept": "text/html"})
    return status, body.decode()


def looks(broker):
    """Look at the patient on pages and by calls, rightly and wrongly."""
    for noun, sought in (("orders", CANARY), ("worklist", f"{CANARY}1"), ("studies", f"{CANARY}1")):
        assert broker.search(noun, sought), noun
    paths = (
        "/orders",
        "/orders/1",
        "/worklist",
        "/images",
        "/messages",
        "/messages/1",
        "/deliveries",
        "/deliveries/1",
    )
    for path in paths:
        assert fetched(broker, path)[0] == 200, path
    # Somebody types a name where it does not belong: it is in that address, and goes no further.
    for path in (
        f"/orders?q={CANARY}",
        f"/{CANARY}",
        f"/studies/{CANARY}",
        f"/orders?page={CANARY}",
        f"/api/{CANARY}",
    ):
        assert fetched(broker, path)[0] in {404, 422}, path
    form = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": broker.cookie}
    for path in ("/orders", "/find", "/sign-in"):
        assert broker._ask("POST", path, f"q={CANARY}&name={CANARY}&password={GUESSED}", form)[0] == 403


def every_line_leads_somewhere(lines):
    """Each is one JSON object that says when, who and how bad, and carries an id of what it is about."""
    told = documented()
    for line in (json.loads(line) for line in lines if line.startswith("{")):
        assert {"event", "level", "timestamp", "role", "pid"} <= line.keys(), line
        _, keys = told.get(line["event"], (set(), set()))
        links = keys & LINKING
        assert not links or links & line.keys(), line


STEP = {"0020,000d": "1.2.3.4", "0040,1001": "RP1", "0040,0009": "SPS1"}


def good_and_bad_orders(broker):
    accepted = orm(accession=f"{CANARY}A", **PERSON)
    assert send_once(broker.hl7, accepted) == "AA"
    assert send_once(broker.hl7, accepted) == "AA"
    assert send_once(broker.hl7, orm(control="CA", accession=f"{CANARY}NONE", **PERSON)) is not None
    refused = [
        accepted.replace("ORC|NW", f"ORC|{CANARY}").replace("|PL", "|PM"),
        accepted.replace("ORM^O01", f"{CANARY}^O01").replace("|PL", "|PN"),
        accepted.replace("|2.3.1", f"|{CANARY}").replace("|PL", "|PO"),
        accepted.replace(BIRTH, f"{BIRTH}{CANARY}").replace("|PL", "|PP"),
        accepted.replace("20261121083000", f"{CANARY}").replace("|PL", "|PQ"),
        accepted.replace("|CT|", f"|{CANARY}MODALITY|").replace("|PL", "|PR"),
        accepted.replace(f"{CANARY}1", f"{CANARY}" * 400).replace("|PL", "|PS"),
        orm(accession="Z1", charset=f"{CANARY}", **PERSON),
        orm(accession="Z2", study_uid=f"{CANARY}.1", **PERSON),
        accepted.replace("\rPID", f"\rPID|{CANARY}\rPID"),
    ]
    for message in refused:
        send_once(broker.hl7, message)
    # MSH-3 is no patient's: senders are known by it, on pages and in metrics.
    for junk in (f"{CANARY} {BIRTH}", f"MSH|{CANARY}", f"MSH|^~\\&|RIS\rPID|||{CANARY}"):
        with socket.create_connection(("127.0.0.1", broker.hl7), timeout=60) as connection:
            connection.sendall(f"{CANARY}\x0b{junk}\x1c\r{CANARY}\x0b{CANARY}".encode())


def queries(broker):
    assert findscu(broker.dicom, f"0010,0010={CANARY}*", "0010,0020")
    findscu(broker.dicom, f"0010,0020={CANARY}1", f"0010,0030={BIRTH}", f"0040,0100[0].0040,0002={BIRTH}-")
    name = f"{CANARY}^BIRD".encode()
    hostile = [
        name,
        b"\x10\x00\x10\x00\xff\xff\xff\x7f" + name,
        b"\x10\x00\x10\x00\xff\xff\xff\xff" + name,
        b"\x10\x00\x10\x00\x0d\x00\x00\x00" + name + b"\x08\x00\x05\x00\x08\x00\x00\x00" + CANARY.encode(),
        b"\x08\x00\x05\x00\x08\x00\x00\x00"
        + CANARY.encode()
        + b"\x10\x00\x10\x00\x0e\x00\x00\x00"
        + name
        + b" ",
        b"\x10\x00\x30\x00\x10\x00\x00\x00" + CANARY.encode() + BIRTH.encode(),
    ]
    for identifier in hostile:
        with contextlib.suppress(AssociationError), association(broker, WORKLIST) as opened:
            list(
                opened.request(
                    Command(field=CommandField.C_FIND_RQ, affected_sop_class_uid=WORKLIST), identifier
                )
            )


def steps(broker):
    (entry,) = findscu(
        broker.dicom, f"0008,0050={CANARY}A", "0020,000D", "0040,1001", "0040,0100[0].0040,0009"
    )
    uid = generate_uid()
    for keyword, value in (
        ("PatientID", f"{CANARY}1"),
        ("PerformedProcedureStepStatus", CANARY),
        ("PerformedProcedureStepStartDate", CANARY),
        ("PatientBirthDate", f"{BIRTH}X"),
        ("Modality", ""),
    ):
        bad = named(creation(entry))
        setattr(bad, keyword, value)
        if keyword != "PatientID":
            report(broker, generate_uid(), bad)
    assert report(broker, uid, named(creation(entry))) == 0
    assert report(broker, uid, named(creation(entry))) == 0x0111
    bad = Dataset()
    bad.PerformedProcedureStepStatus = CANARY
    bad.PatientName = f"{CANARY}^BIRD"
    assert report(broker, uid, bad, create=False) != 0
    report(broker, f"{CANARY}.1", named(creation(entry)))


def creation(entry):
    encoded = a_creation(accession="K2", study=entry["0020,000d"], station="CT1", patient_id="")
    ds = pydicom_reads(encoded, Syntax.EXPLICIT_LITTLE)
    (step,) = ds.ScheduledStepAttributesSequence
    step.RequestedProcedureID, step.ScheduledProcedureStepID = entry["0040,1001"], entry["0040,0009"]
    ds.PatientName = ""
    return ds


def report(broker, uid, data_set, *, create=True):
    return report_once(broker.dicom, uid, pydicom_writes(data_set, Syntax.EXPLICIT_LITTLE), create=create)


def named(ds):
    for keyword, value in IMAGE.items():
        setattr(ds, keyword, value)
    return ds


def images(broker, folder):
    path, _ = an_image(folder, **IMAGE)
    broken, ds = an_image(folder, **IMAGE)
    unprintable, _ = an_image(folder, PhotometricInterpretation=CANARY, **IMAGE)
    for one in (path, unprintable):
        run("storescu", "-aet", "CT1", "-aec", "BROKER", "127.0.0.1", broker.dicom, one)
    body = broken.read_bytes()[-2000:]
    for uid in (ds.SOPInstanceUID, "1.2.3", f"{CANARY}.1"):
        with contextlib.suppress(AssociationError), association(broker, CT) as opened:
            opened.store(
                sop_class_uid=CT,
                sop_instance_uid=uid,
                context="1.2.840.10008.1.2",
                payload=CANARY.encode() + body,
            )


def association(broker, sop_class):
    return open_association(
        "127.0.0.1",
        broker.dicom,
        calling_ae_title="CT1",
        called_ae_title="BROKER",
        contexts=[Proposal(sop_class, ("1.2.840.10008.1.2",))],
    )


@contextlib.contextmanager
def without_table(running, name):
    """Take a table away: every statement on it fails where nobody expected it."""
    engine = open_engine(database_url(running.data_dir, running.environment.get("BROKER_DATABASE_URL")))
    try:
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {name} RENAME TO {name}_away"))
        yield
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {name}_away RENAME TO {name}"))
    finally:
        engine.dispose()
