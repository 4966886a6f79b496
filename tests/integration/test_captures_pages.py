"""The page of wire captures, and their API: for administrators, with nothing lost that was typed."""

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.db.reports import SqlReports
from broker.files.capture_store import CaptureLimits, CaptureStore
from broker.files.capture_taps import CaptureTaps
from broker.web.app import create_app
from broker.workflow.captures import CaptureOperations, WantedCapture
from broker.workflow.devices_port import Sign
from tests.builders import NOW, a_stored_entry
from tests.dashboard_of_devices import a_dashboard_of_devices
from tests.doors import form_token, signed_in
from tests.pcap_reader import conversations

CT1 = WantedCapture("dicom", "CT1", "", 10, "exams <without> images", "ada")
US, SCANNER = ("10.1.0.2", 11112), ("10.1.4.17", 50001)
ROOMY = CaptureLimits(reserve_bytes=0, reserve_percent=0.0)


@pytest.fixture
def shelf(tmp_path):
    return CaptureStore(tmp_path / "captures", ROOMY)


@pytest.fixture
def board(shelf, sqlite_engine, sqlite_uow_factory, clock, tmp_path, store):
    entry = store(lambda uow: a_stored_entry(uow, 1))
    devices = a_dashboard_of_devices(
        sqlite_engine, sqlite_uow_factory, clock, tmp_path, step_id=entry.step.id
    )
    reports = SqlReports(sqlite_engine)
    operations = CaptureOperations(sqlite_uow_factory, reports, shelf, clock, keep=timedelta(hours=24))
    return replace(devices, captures=operations)


@pytest.fixture
def client(board):
    return signed_in(create_app(board), "admin")


@pytest.fixture
def speak(board, shelf, clock):
    """Let a listener hear a scanner."""

    def run(text=b"PATIENT^ONE"):
        taps = CaptureTaps(shelf, "dicom", now_ns=lambda: int(clock.now().timestamp() * 10**9))
        taps.follow(board.reports.standing_orders(now=clock.now()).captures)
        tap = taps.tap(US, SCANNER)
        tap.named("CT1")
        tap.received(text)
        taps.stop()

    return run


def post(client, path, page="/admin/captures", **fields):
    return client.post(path, data={"csrf": form_token(client.get(page).text), **fields})


def names(board):
    with board.reports._reading() as connection:
        rows = connection.exec_driver_sql(
            "SELECT name, actor FROM event WHERE subject = 'capture' ORDER BY id"
        )
        return [tuple(row) for row in rows]


def test_an_administrator_captures_a_device_takes_it_away_and_removes_it(client, board, speak, clock, shelf):
    page = client.get("/devices/CT1").text
    assert "Capture what it says" in page
    fields = {"protocol": "dicom", "name": "CT1", "minutes": "10", "reason": CT1.reason}
    assert post(client, "/admin/captures", "/devices/CT1", **fields).status_code == 303
    clock.advance(65)
    page = client.get("/devices/CT1").text
    assert "8 min left, until 08:10:00" in page
    left = '<span id="left-1" hx-get="/admin/captures" hx-select="#left-1"'
    assert left in page
    assert left in client.get("/admin/captures").text
    assert "exams &lt;without&gt; images" in page
    speak()
    page = client.get("/admin/captures").text
    assert "1 connection, 4 packets" in page
    answer = post(client, "/admin/captures/1/pcap")
    assert answer.headers["content-disposition"] == 'attachment; filename="capture-1-CT1.pcap"'
    assert answer.headers["content-type"] == "application/vnd.tcpdump.pcap"
    assert answer.headers["cache-control"] == "no-store"
    assert [one.text for one in conversations(answer.content).values()] == [b"PATIENT^ONE", b""]
    assert post(client, "/admin/captures/1/stop").status_code == 303
    assert "stopped by <bdi>admin</bdi>" in client.get("/admin/captures").text
    assert "captured" not in client.get("/devices/CT1").text.partition("Capture what it says")[0]
    assert post(client, "/admin/captures/1/delete").status_code == 303
    assert shelf.kept() == []
    assert "removed" in client.get("/admin/captures").text
    assert post(client, "/admin/captures/1/pcap").status_code == 404
    assert names(board) == [
        ("capture started by a person", "admin"),
        ("capture downloaded by a person", "admin"),
        ("viewed", "admin"),
        ("capture stopped by a person", "admin"),
        ("capture deleted by a person", "admin"),
    ]


def test_by_address_too_a_device_is_said_to_be_captured(client, board, store):
    sign = Sign("CT1", "list", NOW, 0, "3 entries", "10.1.4.17")
    store(lambda uow: uow.devices.note_signs([sign], listed=frozenset({"CT1"})))
    board.captures.start(replace(CT1, name="", address="10.1.4.0/24"))
    assert "What it says is written down" in client.get("/devices/CT1").text
    assert "whoever calls from <bdi>10.1.4.0/24</bdi>" in client.get("/admin/captures").text


WRONG = [
    ({"name": "", "address": ""}, 422, "an address, or both"),
    ({"name": "A" * 17}, 422, "1 to 16 characters"),
    ({"address": "everywhere"}, 422, "is not an address such as"),
    ({"minutes": "soon"}, 422, "is no number"),
    ({"minutes": "\u00b2"}, 422, "is no number"),
    ({"minutes": "61"}, 422, "from 1 to 60"),
    ({"protocol": "http"}, 422, "dicom or hl7"),
    ({"reason": " "}, 422, "say why"),
    ({"name": "MR1"}, 409, "captured already"),
]


def test_a_wrong_form_keeps_what_was_typed_and_starts_nothing(client, board):
    board.captures.start(replace(CT1, name="MR1"))
    for wrong, status, said in WRONG:
        fields = {"protocol": "dicom", "name": "CT1", "minutes": "10", "reason": 'the "good" one', **wrong}
        answer = post(client, "/admin/captures", **fields)
        assert answer.status_code == status, wrong
        assert said in answer.text, wrong
        assert "not started" in answer.text
        assert "reason" in wrong or "the &#34;good&#34; one" in answer.text
        assert "name" in wrong or 'value="CT1"' in answer.text
        assert len(board.reports.captures()) == 1


def test_without_room_nothing_is_started_and_the_page_says_so(client, board, shelf):
    shelf.limits = CaptureLimits(reserve_bytes=2**62)
    assert "nothing is written to captures now" in client.get("/admin/captures").text
    answer = post(client, "/admin/captures", name="CT1", reason="x")
    assert answer.status_code == 507
    assert board.reports.captures() == []


def test_an_operator_sees_that_it_runs_and_may_do_nothing_about_it(board):
    board.captures.start(CT1)
    operator = signed_in(create_app(board), "operator")
    page = operator.get("/devices/CT1").text
    assert "What it says is written down" in page
    assert "/admin/captures" not in page
    token = form_token(page)
    for path in ("", "/1/stop", "/1/pcap", "/1/delete"):
        assert operator.post(f"/admin/captures{path}", data={"csrf": token}).status_code == 403
    assert operator.get("/admin/captures").status_code == 403
    assert operator.get("/api/captures/1/pcap").status_code == 403
    assert names(board) == [("capture started by a person", "ada")]


def test_a_hostile_name_is_text_and_no_file_name(client, board, speak, shelf):
    hostile = '"><script>/../=cmd|'
    begun = board.captures.start(replace(CT1, protocol="hl7", name=hostile))
    board.captures.start(replace(CT1, name="NEW <CT>"))
    assert "never heard" in client.get("/devices/NEW%20%3CCT%3E").text, "one that is waited for"
    page = client.get("/admin/captures").text
    assert "<script>/" not in page
    answer = client.get(f"/api/captures/{begun.id}/pcap")
    assert answer.headers["content-disposition"] == 'attachment; filename="capture-1-script-cmd.pcap"'


def test_programs_do_the_same_and_twice_with_a_key_is_once(client, speak):
    token = form_token(client.get("/devices").text)
    headers = {"X-CSRF-Token": token, "Idempotency-Key": "k1"}
    wanted = {"name": "CT1", "reason": "why", "minutes": 5}
    first = client.post("/api/captures", json=wanted, headers=headers)
    assert first.status_code == 201
    assert client.post("/api/captures", json=wanted, headers=headers).json()["id"] == first.json()["id"]
    speak()
    (listed,) = client.get("/api/captures").json()
    assert (listed["name"], listed["running"], listed["connections"]) == ("CT1", True, 1)
    assert client.get("/api/captures/1").json()["size_bytes"] > 100
    assert conversations(client.get("/api/captures/1/pcap").content)
    refused = client.post("/api/captures", json={**wanted, "minutes": 0}, headers={"X-CSRF-Token": token})
    assert refused.status_code == 422
    other = client.post("/api/captures/1/stop", headers=headers)
    assert other.status_code == 409, "a key stands for one request"
    stopping = {"X-CSRF-Token": token, "Idempotency-Key": "k2"}
    for _ in range(2):
        assert client.post("/api/captures/1/stop", headers=stopping).json() == {"id": 1, "stopped": True}
    assert client.delete("/api/captures/1", headers=headers).json() == {"id": 1, "deleted": True}
    assert client.delete("/api/captures/1", headers=headers).json() == {"id": 1, "deleted": False}
    assert client.get("/api/captures/1/pcap").status_code == 404
    assert client.get("/api/captures/2").status_code == 404
