"""What DCMTK and a RIS say to a running broker is captured and read by Wireshark; nothing of it reaches the log."""

import json
import re
import shutil
import socket
import stat
from collections import Counter

import pytest
from sqlalchemy import select

from broker.db.engine import open_engine, reading
from broker.db.schema import EVENT
from tests.broker_process import RunningBroker, wait_until
from tests.journeys.hl7_orders import orm
from tests.journeys.images import an_image
from tests.ledger.lines import send_once
from tests.pcap_reader import conversations
from tests.peers import findscu, run

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(400)]
CANARY = "ZZWIRE"


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("w")
    site = {
        "site": {"name": "Hospital", "timezone": "UTC", "ae_title": "BROKER"},
        "devices": [{"ae_title": "CT1", "modality": "CT"}],
    }
    running = RunningBroker(folder, site)
    try:
        yield running.start()
    finally:
        code = running.stop()
        print(running.tail(30))
        shutil.rmtree(folder, ignore_errors=True)
    assert code == 0, "SIGTERM ends in order"


def wireshark(path, *fields, decode, only=""):
    """Answer rows of fields as Wireshark's dissectors find them."""
    chosen = [part for name in fields for part in ("-e", name)]
    picked = ["-Y", only] if only else []
    done = run("tshark", "-n", "-r", path, "-d", decode, "-T", "fields", *picked, *chosen)
    return [line.split("\t") for line in done.stdout.splitlines() if line.strip()]


def asked(broker, method, path, **fields):
    """Ask the API as the pages' own script would: quicker than a command."""
    token = re.search(rb'name="csrf" value="([^"]+)"', broker._get("/admin/captures")[2])[1].decode()
    headers = {"Cookie": broker.cookie, "X-CSRF-Token": token, "Content-Type": "application/json"}
    status, _, body = broker._ask(method, f"/api/captures{path}", json.dumps(fields), headers)
    assert status in {200, 201}, body
    return json.loads(body)


def started(broker, **fields):
    return asked(broker, "POST", "", reason="exams without images", **fields)["id"]


def taken(broker, capture):
    status, _, raw = broker._get(f"/api/captures/{capture}/pcap")
    assert status == 200
    return raw


def ended_with(broker, capture, text):
    """Answer how many associations there are when all have ended and this was said in one; None before."""
    found = conversations(taken(broker, capture)).values()
    is_there = any(text.encode() in one.text for one in found)
    return len(found) // 2 if is_there and all(one.ended for one in found) else None


def test_a_scanner_and_a_ris_are_captured_and_read_by_wireshark(broker, tmp_path):
    broker.sign_in()
    told = broker.cli("captures", "start", "CT1", "--minutes", "5", "--reason", "exams without images")
    scanner = int(told.partition(":")[0])
    ris = started(broker, protocol="hl7", name="RIS", address="127.0.0.0/8")
    # The listeners look once a second: what one answers before it has looked is not captured.
    person = {"patient_id": f"{CANARY}1", "name": f"{CANARY}^JOSEPH"}
    wait_until(
        lambda: (
            send_once(broker.hl7, orm(accession=f"A{CANARY}", **person)) == "AA"
            and next(one for one in broker.api("captures") if one["id"] == ris)["connections"]
        ),
        what="an order in the capture",
    )
    image, ds = an_image(tmp_path, PatientID=f"{CANARY}1", PatientName=f"{CANARY}^JOSEPH")
    wait_until(
        lambda: (
            run("echoscu", "-aet", "CT1", "-aec", "BROKER", "127.0.0.1", broker.dicom)
            and next(one for one in broker.api("captures") if one["id"] == scanner)["connections"]
        ),
        what="an echo in the capture",
    )
    run("echoscu", "-aet", "MR1", "-aec", "BROKER", "127.0.0.1", broker.dicom)
    assert findscu(broker.dicom, f"0010,0010={CANARY}*", "0010,0020")
    run("storescu", "-aet", "CT1", "-aec", "BROKER", "127.0.0.1", broker.dicom, image)
    associations = wait_until(lambda: ended_with(broker, scanner, ds.SOPInstanceUID), what="an image in it")
    (told,) = (one for one in broker.api("captures") if one["id"] == scanner)
    assert told["left_out_bytes"] == 0
    assert told["size_bytes"] > image.stat().st_size
    files = [path for path in (broker.data_dir / "captures").rglob("*") if path.suffix != ".new"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600, 0o700}

    of_scanner, of_ris = tmp_path / "scanner.pcap", tmp_path / "ris.pcap"
    assert asked(broker, "POST", f"/{scanner}/stop")["stopped"]
    assert "left out" not in broker.cli("captures", "download", scanner, of_scanner)
    assert stat.S_IMODE(of_scanner.stat().st_mode) == 0o600
    of_ris.write_bytes(taken(broker, ris))

    decode = f"tcp.port=={broker.dicom},dicom"
    pdus = Counter(
        part
        for (found,) in wireshark(of_scanner, "dicom.pdu.type", decode=decode, only="dicom")
        for part in found.split(",")
    )
    assert pdus["0x01"] == pdus["0x02"] == associations, "A-ASSOCIATE-RQ and -AC"
    assert pdus["0x05"] == pdus["0x06"] == associations, "A-RELEASE-RQ and -RP"
    callers = wireshark(of_scanner, "dicom.assoc.ae.calling", decode=decode, only="dicom.pdu.type == 1")
    assert {name.strip() for (name,) in callers} == {"CT1"}, "MR1 is not in it"
    checked = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    whole = run("tshark", "-n", *checked, "-r", of_scanner, "-d", decode, "-V").stdout
    for command in ("C-ECHO-RQ", "C-ECHO-RSP", "C-FIND-RQ", "C-FIND-RSP", "C-STORE-RQ", "C-STORE-RSP"):
        assert command in whole, command
    assert "Checksum Status: Good" in whole
    assert "Checksum Status: Bad" not in whole
    assert "Expert Info (Warning" not in whole
    assert "Expert Info (Error" not in whole
    assert "[TCP Analysis Flags]" not in whole, "lost, repeated or out of order"

    decode = f"tcp.port=={broker.hl7},hl7"
    types = wireshark(of_ris, "hl7.message.type", decode=decode, only="hl7")
    assert {row[0] for row in types} == {"ORM", "ACK"}


def test_a_connection_that_is_open_already_is_captured_from_its_next_message(broker, tmp_path):
    with socket.create_connection(("127.0.0.1", broker.hl7), timeout=60) as ris:

        def exchange():
            ris.sendall(b"\x0b" + orm(accession="OPEN", patient_id="P9").encode() + b"\x1c\r")
            answer = b""
            while not answer.endswith(b"\x1c\r"):
                answer += ris.recv(65536)
            return b"MSA|AA" in answer

        assert exchange()
        capture = started(broker, protocol="hl7", address="127.0.0.1")
        wait_until(
            lambda: (
                exchange()
                and next(one for one in broker.api("captures") if one["id"] == capture)["packets"] >= 2
            ),
            what="the open connection in the capture",
        )
    assert broker.cli("captures", "delete", capture) == f"{capture}: removed\n"
    wait_until(lambda: not (broker.data_dir / "captures" / str(capture)).exists(), what="removal")


def test_nothing_of_it_is_in_the_log_and_everything_in_the_trail(broker):
    assert CANARY not in broker.log.read_text(errors="replace")
    engine = open_engine(broker.database_url)
    with reading(engine) as connection:
        rows = connection.execute(select(EVENT.c.name).where(EVENT.c.subject == "capture"))
        kinds = Counter(rows.scalars())
    engine.dispose()
    assert kinds.pop("viewed") == kinds.pop("capture downloaded by a person") >= 3
    assert kinds == {
        "capture started by a person": 3,
        "capture stopped by a person": 2,
        "capture deleted by a person": 1,
    }
    assert [one["name"] for one in broker.json("captures", "list")] == ["", "RIS", "CT1"]
