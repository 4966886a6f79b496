"""HL7 order -> worklist entry -> C-FIND answer (RAD-2, RAD-4, RAD-5), through real sockets and peers' programs."""

import shutil
from pathlib import Path

import hl7.client
import pytest
from pydicom import dcmread

from tests.journeys.hl7_orders import orm
from tests.peers import findscu, missing, node, run, running
from tests.ports import free_port

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(400)]
KEYS = [
    "0008,0050",
    "0010,0010",
    "0010,0020",
    "0020,000D",
    "0040,1001",
    "0040,0100[0].0008,0060",
    "0040,0100[0].0040,0001",
    "0040,0100[0].0040,0002",
    "0040,0100[0].0040,0009",
]
SAMPLES = Path("/usr/share/doc/dcmtk/examples")


def send(broker, message):
    """Send with the `hl7` package's client; answer MSA-1."""
    with hl7.client.MLLPClient("127.0.0.1", broker.hl7) as client:
        return answer_code(client.send_message(message))


def answer_code(answer):
    return next(line.split("|")[1] for line in answer.decode("latin-1").split("\r") if line.startswith("MSA"))


def test_an_order_is_on_the_worklist_of_its_station_when_it_is_acknowledged(broker):
    assert send(broker, orm(accession="A100", patient_id="P100", name="HAYDN^JOSEPH")) == "AA"

    found = findscu(broker.dicom, *KEYS, "0008,0050=A100")

    assert len(found) == 1
    assert found[0]["0010,0010"] == "HAYDN^JOSEPH"
    assert found[0]["0008,0060"] == "CT"
    assert found[0]["0040,0001"] in {"CT1\\CT2", "CT1"}


def test_a_cancelled_order_is_off_the_worklist_when_it_is_acknowledged(broker):
    send(broker, orm(accession="A101", patient_id="P101"))
    assert len(findscu(broker.dicom, *KEYS, "0008,0050=A101")) == 1

    assert send(broker, orm(control="CA", accession="A101", patient_id="P101")) == "AA"

    assert findscu(broker.dicom, *KEYS, "0008,0050=A101") == []


def test_the_same_message_again_changes_nothing_and_is_answered_the_same(broker):
    message = orm(accession="A102", patient_id="P102")
    assert [send(broker, message), send(broker, message)] == ["AA", "AA"]
    assert len(findscu(broker.dicom, *KEYS, "0008,0050=A102")) == 1


def test_an_npm_client_places_an_order_on_one_kept_connection(broker, tmp_path):
    file = tmp_path / "order.hl7"
    file.write_text(orm(accession="A108", patient_id="P108"), newline="")
    assert node(Path(__file__).with_name("order.js"), broker.hl7, file) == ["AA", "AA"]
    assert len(findscu(broker.dicom, *KEYS, "0008,0050=A108")) == 1


def test_a_scanner_of_another_modality_does_not_see_it(broker):
    send(broker, orm(accession="A103", patient_id="P103", modality="CT"))
    assert findscu(broker.dicom, *KEYS[:5], "0040,0100[0].0008,0060=MR", "0008,0050=A103") == []


def test_names_of_every_script_reach_the_scanner(broker):
    send(broker, orm(accession="A104", patient_id="P104", name="Müller^Jörg", charset="UNICODE UTF-8"))
    found = findscu(broker.dicom, *KEYS, "0008,0050=A104")
    assert len(found) == 1
    assert "0010,0010" in found[0]


def test_a_refused_order_says_which_field_and_is_kept(broker):
    message = orm(accession="A105", patient_id="").replace("PID|1||^^^HOSP", "PID|1||")
    with hl7.client.MLLPClient("127.0.0.1", broker.hl7) as client:
        answer = client.send_message(message).decode("latin-1")
    assert "MSA|AE|" in answer
    assert "PID^1^3" in answer
    control = message.split("|")[9]
    rows = [row for row in broker.json("messages", "list") if row["message_control_id"] == control]
    assert rows[0]["outcome"] == "refused"


def test_garbage_and_strangers_disturb_nobody(broker):
    import socket

    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x0bMSH|", b"\x16\x03\x01\x02\x00", b"\x00" * 4096):
        for port in (broker.hl7, broker.dicom):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as stranger:
                stranger.sendall(junk)
    refused = run("echoscu", "-aet", "CT1", "-aec", "SOMEBODY", "127.0.0.1", broker.dicom, check=False)
    assert refused.returncode != 0
    assert run("echoscu", "-aet", "CT1", "-aec", "BROKER", "127.0.0.1", broker.dicom).returncode == 0
    assert send(broker, orm(accession="A106", patient_id="P106")) == "AA"
    log = broker.log.read_text()
    assert "HAYDN" not in log


def test_the_command_line_lists_what_came(broker):
    send(broker, orm(accession="A107", patient_id="P107"))
    rows = broker.json("worklist", "list", "--limit", "500")
    row = next(row for row in rows if row["accession_number"] == "A107")
    assert row.keys() >= {"sps_id", "patient_name", "modality", "station_ae_titles", "start", "status"}
    assert row["status"] == "SCHEDULED"
    assert any(row["accession_number"] == "A107" for row in broker.json("orders", "list", "--limit", "500"))
    assert "A107" in broker.cli("worklist", "print", "--day", "2026-11-21")


# ---- beside DCMTK's own worklist server, with DCMTK's own entries ------------------------------------------


def as_order(entry, number):
    """Write an entry of DCMTK's sample worklist as an order message."""
    step = entry.ScheduledProcedureStepSequence[0]
    start = step.ScheduledProcedureStepStartDate + step.ScheduledProcedureStepStartTime[:6]
    message = orm(
        accession=entry.AccessionNumber,
        patient_id=entry.PatientID,
        name=str(entry.PatientName),
        birth=entry.PatientBirthDate,
        sex=entry.PatientSex,
        modality=step.Modality,
        start=start,
        code=f"S{number}^{entry.RequestedProcedureDescription}^L",
        study_uid=entry.StudyInstanceUID,
        charset="8859/1",
    )
    message = message.replace(f"|RP{entry.AccessionNumber}|", f"|{entry.RequestedProcedureID}|")
    message = message.replace(f"|SPS{entry.AccessionNumber}|", f"|{step.ScheduledProcedureStepID}|")
    return message.replace("ORC|NW", "ORC|NW", 1), step.ScheduledStationAETitle


@pytest.fixture(scope="module")
def dcmtk_worklist(tmp_path_factory):
    """wlmscpfs with its ten sample entries."""
    source = SAMPLES / "wlistdb/OFFIS"
    if not source.is_dir():
        missing("DCMTK's sample worklist")
    folder = tmp_path_factory.mktemp("wl")
    area = folder / "OFFIS"
    area.mkdir()
    (area / "lockfile").touch()
    for dump in sorted(source.glob("*.dump")):
        run("dump2dcm", dump, area / f"{dump.stem}.wl")
    port = free_port()
    with running("wlmscpfs", "-dfp", folder, port, port=port):
        yield port, [dcmread(path, force=True) for path in sorted(area.glob("*.wl"))]
    shutil.rmtree(folder, ignore_errors=True)


QUERIES = {
    "by modality": ["0040,0100[0].0008,0060=MR"],
    "by patient name": ["0010,0010=VIVALDI*"],
    "by name with a wildcard inside": ["0010,0010=*A*"],
    "by patient id": ["0010,0020=AV35674"],
    "by accession": ["0008,0050=00002"],
    "by date": ["0040,0100[0].0040,0002=19951015"],
    "by a range of dates": ["0040,0100[0].0040,0002=19950101-19951231"],
    "since a date": ["0040,0100[0].0040,0002=19960101-"],
    "everything": [],
}


@pytest.fixture(scope="module")
def both(broker, dcmtk_worklist):
    """The ten entries in both servers: DCMTK's own, and ours fed by HL7."""
    port, entries = dcmtk_worklist
    for number, entry in enumerate(entries):
        message, _ = as_order(entry, number)
        assert send(broker, message) == "AA", entry.AccessionNumber
    return port, broker.dicom, [entry.AccessionNumber for entry in entries]


@pytest.mark.parametrize("query", QUERIES)
def test_we_answer_what_dcmtk_answers(both, query):
    theirs, ours, accessions = both
    keys = ["0008,0050", "0010,0010", "0010,0020", "0040,0100[0].0040,0009", *QUERIES[query]]
    expected = {entry["0008,0050"] for entry in findscu(theirs, *keys, called="OFFIS")}
    found = {entry["0008,0050"] for entry in findscu(ours, *keys)} & set(accessions)
    assert found == expected
    assert expected, "a query that finds nothing proves nothing"
