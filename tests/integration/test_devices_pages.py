"""The pages of devices: who knocks, who is let in by one click, what a device sees, and its passport."""

import re
from datetime import timedelta
from html import unescape

import pytest

from broker.domain.knocks import KnockReason
from broker.web.app import create_app
from broker.workflow.devices_port import Conversation, KnockKey, Knocks, Sign
from tests.builders import NOW, a_stored_entry
from tests.dashboard_of_devices import a_dashboard_of_devices
from tests.doors import form_token, signed_in

HOSTILE = "<b>=cmd|\u202e"
HOUR = timedelta(hours=1)


@pytest.fixture
def board(sqlite_engine, sqlite_uow_factory, clock, tmp_path, store):
    entry = store(lambda uow: a_stored_entry(uow, 1))
    return a_dashboard_of_devices(sqlite_engine, sqlite_uow_factory, clock, tmp_path, step_id=entry.step.id)


@pytest.fixture
def client(board):
    return signed_in(create_app(board), "operator")


@pytest.fixture
def loaner_knocks(store):
    key = KnockKey("LOANER", "BROKER", "10.1.4.17", KnockReason.UNKNOWN_TITLE)
    store(lambda uow: uow.devices.note_knocks([Knocks(key, 12, NOW - HOUR, NOW)]))


def post(client, path, page="/devices", **fields):
    return client.post(path, data={"csrf": form_token(client.get(page).text), **fields})


def test_a_loaner_is_let_in_by_one_click_and_sent_away_by_another(client, board, loaner_knocks, clock):
    page = client.get("/devices").text
    assert "its AE title is not among our devices" in page
    assert "A-ASSOCIATE-RJ 1/1/3" in page
    assert 'aria-label="Let in for 8 h: LOANER at 10.1.4.17"' in page
    assert board.reports.needs_person(refused_since=NOW - HOUR).refused_devices == 1
    fields = {"ae_title": "LOANER", "address": "10.1.4.17", "hours": "8", "reason": "loaner"}
    assert post(client, "/devices/admit", **fields).status_code == 303
    (admitted,) = board.reports.admitted(now=clock.now())
    assert (admitted.ae_title, admitted.actor) == ("LOANER", "operator")
    assert admitted.until - admitted.since == 8 * HOUR
    assert board.reports.needs_person(refused_since=NOW - HOUR).refused_devices == 0
    assert "let in for a time" in client.get("/devices/LOANER").text
    assert post(client, f"/devices/admissions/{admitted.id}/end").status_code == 303
    assert board.reports.admitted(now=clock.now()) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"address": "everywhere"}, "is not an address such as"),
        ({"hours": "soon"}, "is no number of hours"),
        ({"hours": "nan"}, "hours: "),
        ({"hours": "1e300"}, "hours: "),
        ({"hours": "-1"}, "hours: "),
        ({"reason": ""}, "say why"),
        ({"ae_title": "A" * 17}, "1 to 16 characters"),
    ],
)
def test_a_wrong_form_keeps_what_was_typed_and_changes_nothing(client, board, wrong, said):
    fields = {"ae_title": "LOANER", "address": "10.1.4.17", "hours": "8", "reason": 'the "good" one', **wrong}
    answer = post(client, "/devices/admit", **fields)
    assert answer.status_code == 422
    assert said in answer.text
    if "reason" not in wrong:
        assert "the &#34;good&#34; one" in answer.text
    assert board.reports.admissions() == []


def test_a_viewer_sees_devices_and_lets_nobody_in(board, loaner_knocks):
    viewer = signed_in(create_app(board), "viewer")
    page = viewer.get("/devices").text
    assert "LOANER" in page
    assert "/devices/admit" not in page
    answer = viewer.post("/devices/admit", data={"csrf": form_token(page)})
    assert answer.status_code == 403
    assert board.reports.admissions() == []


def test_a_device_page_says_what_it_sees_and_what_it_did_last(client, board, store):
    sign = Sign("CT1", "list", NOW, 0, "3 entries", "10.1.4.1")
    talk = Conversation("CT1", "a-1", "10.1.4.1", HOSTILE, NOW, NOW, {"list": 1}, 0, "the peer released it")
    store(lambda uow: uow.devices.note_signs([sign], listed=frozenset({"CT1"})))
    store(lambda uow: uow.devices.note_conversations([talk]))
    page = client.get("/devices/CT1").text
    assert "CT console &lt;4711&gt;" in page
    assert "3 entries" in page
    assert "/orders/1?device=CT1#seen" in page
    assert "<b>=cmd" not in page
    with board.reports._reading() as connection:
        viewed = connection.exec_driver_sql("SELECT actor FROM event WHERE name = 'viewed'").all()
    assert [tuple(row) for row in viewed] == [("operator",)]


def test_an_order_is_found_for_a_device_without_its_number_in_the_address(client, board):
    page = "/devices/CT1"
    answer = post(client, "/devices/CT1/would", page, order=board.reports.orders()[0].accession_number)
    assert (answer.status_code, answer.headers["location"]) == (303, "/orders/1?device=CT1#seen")
    assert post(client, "/devices/CT1/would", page, order="nothing like it").status_code == 422


@pytest.mark.parametrize("title", [HOSTILE[:16], "A/B", "=cmd|", '"><script>'])
def test_a_hostile_title_is_shown_and_has_its_page(client, store, title):
    key = KnockKey(title, HOSTILE, "10.9.9.9", KnockReason.UNKNOWN_TITLE)
    store(lambda uow: uow.devices.note_knocks([Knocks(key, 1, NOW, NOW)]))
    page = client.get("/devices").text
    assert "<script>" not in page.replace("<script src=", "")
    assert "<b>=cmd" not in page
    assert "\u202e" not in page
    links = [unescape(link) for link in re.findall(r'href="(/devices/[^"#]+)"', page)]
    link = next(link for link in links if not link.startswith("/devices/CT1"))
    answer = client.get(link)
    assert answer.status_code == 200
    assert "\u202e" not in answer.text


def test_nobody_heard_of_is_not_found(client):
    assert client.get("/devices/NEVER").status_code == 404
    assert client.get("/api/devices/NEVER").status_code == 404


def test_a_passport_ticks_off_what_works(client, store):
    page = client.get("/devices/CT1/passport").text
    assert "BROKER" in page
    assert "testserver" in page
    assert 'hx-get="/devices/CT1/ticks"' in page
    assert " works " not in page
    signs = [Sign("CT1", "echo", NOW, 0, "", "10.1.4.1"), Sign("CT1", "images", NOW, 0xA700, "", "10.1.4.1")]
    store(lambda uow: uow.devices.note_signs(signs, listed=frozenset({"CT1"})))
    ticks = client.get("/devices/CT1/ticks").text
    assert "Echo works" in ticks
    assert "Images failed" in ticks
    assert "A700H" in ticks
    key = KnockKey("CT1", "BROCKER", "10.1.4.1", KnockReason.WRONG_CALLED)
    later = NOW + timedelta(seconds=1)
    store(lambda uow: uow.devices.note_knocks([Knocks(key, 1, later, later)]))
    assert "it called <bdi>BROCKER</bdi>" in client.get("/devices/CT1/ticks").text


def test_programs_list_admit_and_end_once(client, loaner_knocks):
    (knocks,) = client.get("/api/knocks").json()
    assert (knocks["ae_title"], knocks["number"], knocks["reason"]) == ("LOANER", 12, "calling")
    token = form_token(client.get("/devices").text)
    headers = {"X-CSRF-Token": token, "Idempotency-Key": "one"}
    wanted = {"ae_title": "LOANER", "address": "10.1.4.17", "reason": "broken tube"}
    first = client.post("/api/admissions", json=wanted, headers=headers)
    again = client.post("/api/admissions", json=wanted, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    other = client.post("/api/admissions", json=wanted, headers={"X-CSRF-Token": token})
    assert other.status_code == 409
    assert other.headers["content-type"] == "application/problem+json"
    never = {**wanted, "hours": 0}
    assert client.post("/api/admissions", json=never, headers=headers).status_code == 409, (
        "the key of another"
    )
    assert client.post("/api/admissions", json=never, headers={"X-CSRF-Token": token}).status_code == 422
    key = first.json()["id"]
    ended = client.post(f"/api/admissions/{key}/end", headers={"X-CSRF-Token": token})
    assert ended.json() == {"id": key, "ended": True}
    devices = {one["ae_title"]: one for one in client.get("/api/devices").json()}
    assert devices["CT1"]["state"] == "never heard"
    assert client.get("/api/devices/CT1/passport").json()["ae_title"] == "CT1"
    assert [one["ended_by"] for one in client.get("/api/admissions").json()] == ["operator"]
