"""A synthetic exam through a running broker: every hop by its real port, and nothing of it left anywhere."""

import re
import socket
from contextlib import suppress
from urllib.parse import urlencode

import hl7.client
import pytest
from sqlalchemy import func, select

from broker.db.engine import open_engine
from broker.db.schema import (
    DECISION,
    DELIVERY,
    DELIVERY_ITEM,
    EVENT,
    INSTANCE,
    MESSAGE,
    ORDER,
    PATIENT,
    PERFORMED,
    STEP,
    STEP_STATION,
    STUDY,
)
from tests.broker_process import RunningBroker, wait_until
from tests.journeys.hl7_orders import orm
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
HOPS = ["order", "worklist", "begin", "image", "finish", "delivery"]
KEPT = (
    PATIENT,
    ORDER,
    STEP,
    STEP_STATION,
    PERFORMED,
    MESSAGE,
    INSTANCE,
    STUDY,
    DECISION,
    DELIVERY,
    DELIVERY_ITEM,
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """A broker with an archive that takes everything and a RIS that wants to hear of every exam."""
    site = {
        "site": {"timezone": "UTC", "ae_title": "BROKER"},
        "listen": {"dicom": {"accept_unknown_devices": "never"}},
        "devices": [{"ae_title": "CT1", "modality": ["CT", "OT"]}],
        "destinations": {
            "archive": {"kind": "folder", "path": "archive", "keep_free_mib": 1, "safekeeping": True},
            "ris": {"kind": "mllp", "host": "127.0.0.1", "port": free_port()},
        },
        "feedback": {"destination": "ris"},
        "limits": {"storage": {"free_reserve_bytes": 0, "free_reserve_percent": 0}},
        "routes": [{"name": "everything", "send": ["archive"]}],
    }
    running = RunningBroker(tmp_path_factory.mktemp("probe"), site)
    try:
        yield running.start()
    finally:
        running.stop()


def rows(broker):
    engine = open_engine(broker.database_url)
    with engine.connect() as connection:
        found = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in KEPT
        }
    engine.dispose()
    return found


def test_every_hop_holds_and_nothing_of_it_stays_but_the_trail(broker):
    with hl7.client.MLLPClient("127.0.0.1", broker.hl7) as client:
        client.send_message(orm(accession="REAL1", patient_id="REAL"))
    before = rows(broker)
    assert before["patient"] == 1

    run = broker.json("probe")

    assert [hop["name"] for hop in run["hops"]] == HOPS
    assert [hop["detail"] for hop in run["hops"] if not hop["ok"]] == []
    assert run["ok"]
    assert run["failed_hop"] is None
    assert not (broker.data_dir / "archive").exists()
    # Its rows are there until newer ones have come, and nobody sees them.
    assert [line["patient_id"] for line in broker.json("orders", "list")] == ["REAL"]
    assert [line["patient_id"] for line in broker.json("worklist", "list")] == ["REAL"]
    assert len(broker.json("messages", "list")) == 1
    assert broker.json("images", "list") == []
    assert broker.json("deliveries", "list") == []
    assert [line["destination"] for line in broker.json("destinations", "list")] == ["archive", "ris"]
    once = rows(broker)
    assert broker.json("probe")["ok"]
    assert rows(broker) == once
    assert once["patient"] == 2
    assert len(list((broker.data_dir / "probe").iterdir())) == 1
    engine = open_engine(broker.database_url)
    with engine.connect() as connection:
        study = EVENT.c.study_instance_uid == run["study_instance_uid"]
        told = set(connection.execute(select(EVENT.c.name).where(study)).scalars())
        trail = select(EVENT.c.details).where(study, EVENT.c.name == "delivery created")
        assert [details["destination"] for details in connection.execute(trail).scalars()] == ["broker.probe"]
    engine.dispose()
    assert {"routed", "delivery delivered"} <= told


def test_the_last_exams_are_listed_and_the_overview_knows_of_them(broker):
    assert broker.json("probe")["ok"]
    (last, *_) = broker.json("probe", "--last", "5")
    assert last["ok"]
    assert last["hops"][0]["detail"] == "the order was answered AA"


def test_the_failing_hop_is_named_with_its_reason_and_the_command_exits_1(broker, monkeypatch):
    monkeypatch.setenv("BROKER_LISTEN__HL7__PORT", str(free_port()))
    with pytest.raises(AssertionError, match=r": 1\n✗ order .*Connection refused\nfailed at: order"):
        broker.cli("probe")


def pressed(broker, path):
    """Press the button of a page that sends a form without fields to `path`; answer where it leads."""
    cookie = broker.sign_in()
    _, _, page = broker._get(path)
    secret = re.search(rb'name="csrf" value="([^"]+)"', page)[1].decode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie}
    status, head, body = broker._ask("POST", path, urlencode({"csrf": secret}), headers)
    assert status == 303, body
    return head["location"]


def test_a_person_runs_one_from_the_page_and_it_stands_in_the_trail(broker):
    where = pressed(broker, "/probe")
    run = wait_until(
        lambda: (found := broker.api(where.removeprefix("/")))["ended_at"] and found,
        timeout_s=90,
        what="the end of the exam",
    )
    assert [hop["name"] for hop in run["hops"]] == HOPS
    assert run["ok"]
    (line, *_) = broker.json("audit", "list", "--what", "synthetic exam started by a person", "--limit", "1")
    assert (line["actor"], line["study_instance_uid"]) == (run["actor"], run["study_instance_uid"])


def test_it_goes_through_listeners_that_speak_tls_only(tmp_path, certificates):
    tls = {"certificate": str(certificates / "broker.pem"), "key": str(certificates / "broker.key")}
    mutual = {**tls, "client_ca": str(certificates / "ca.pem")}
    site = {
        "site": {"timezone": "UTC"},
        "listen": {
            "hl7": {"tls": tls},
            "dicom": {"tls": mutual},
            "storage": {"port": free_port(), "tls": tls},
        },
        "limits": {"storage": {"free_reserve_bytes": 0, "free_reserve_percent": 0}},
    }
    broker = RunningBroker(tmp_path, site)
    try:
        broker.start()
        run = broker.json("probe")
        assert [hop["detail"] for hop in run["hops"] if not hop["ok"]] == []
        assert [hop["name"] for hop in run["hops"]] == HOPS
        with socket.create_connection(("127.0.0.1", broker.hl7), timeout=60) as plain:
            plain.sendall(b"\x0bMSH|^~\\&|RIS|HOSP|||20261121||ORM^O01|1|P|2.3.1\r\x1c\r")
            with suppress(ConnectionError):
                assert b"MSA" not in plain.recv(1000)
    finally:
        broker.stop()


def test_it_runs_by_itself(tmp_path):
    site = {
        "site": {"timezone": "UTC"},
        "probe": {"every": "1s"},
        "limits": {"storage": {"free_reserve_bytes": 0, "free_reserve_percent": 0}},
    }
    broker = RunningBroker(tmp_path, site)
    try:
        broker.start()
        wait_until(
            lambda: any(run["ok"] for run in broker.json("probe", "--last", "3")),
            timeout_s=60,
            what="a synthetic exam that held",
        )
        (run, *_) = broker.json("probe", "--last", "1")
        assert run["actor"] == "broker"
    finally:
        broker.stop()
