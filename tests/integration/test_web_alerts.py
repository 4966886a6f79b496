"""The page of alerts and its JSON twin."""

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.alerts import AlertKind, Finding, Severity
from broker.web.app import create_app
from broker.workflow.alert_operations import AlertOperations
from broker.workflow.alerting import Alerting, Telling
from broker.workflow.alerts_port import ChannelFailed
from tests.builders import NOW
from tests.doors import form_token, signed_in
from tests.integration.hospital_pages import HOSTILE, Page

PATH = "/alerts"


class Pager:
    name, works = "pager", True

    def send(self, message):
        if not self.works:
            raise ChannelFailed("pager:1: ConnectionRefusedError")


@pytest.fixture
def pager():
    return Pager()


@pytest.fixture
def look(board, sqlite_uow_factory, clock, pager):
    telling = Telling({"pager": pager}, timedelta(hours=4), "Hospital")
    alerting = Alerting(sqlite_uow_factory, board.reports, clock, telling)

    def run(*subjects, after=0):
        clock.advance(after)
        alerting.look(
            Finding(AlertKind.DEAD, one, Severity.WARNING, f"3 dead to {one}", "Read.", "/deliveries")
            for one in subjects
        )
        alerting.carry()

    return run


@pytest.fixture
def app(board, sqlite_uow_factory, clock, pager):
    operations = AlertOperations(sqlite_uow_factory, clock, {"pager": pager}, "Hospital")
    return create_app(replace(board, alerts=operations))


@pytest.fixture
def client(app):
    return signed_in(app, "operator")


def post(client, path, **fields):
    return client.post(path, data={"csrf": form_token(client.get(PATH).text), **fields})


def test_an_alert_is_shown_taken_in_hand_and_over(client, look):
    assert "No alert" in client.get(PATH).text
    look("archive")
    text = client.get(PATH).text
    assert "1 alert<" in text
    assert "3 dead to archive" in text
    assert "pager raised" in text
    assert post(client, f"{PATH}/1/acknowledge").status_code == 303
    text = client.get(PATH).text
    assert "I have it" not in text
    assert "operator" in text
    look(after=10)
    look(after=60)
    text = client.get(PATH).text
    assert "No alert" in text
    assert "3 dead to archive" in text.partition("over</h2>")[2]
    assert post(client, f"{PATH}/1/acknowledge").status_code == 409


def test_a_maintenance_is_planned_shown_and_ended(client, look):
    fields = {"about": "archive", "begin": "", "until": "2026-11-21T10:00", "reason": "new disks"}
    assert post(client, "/maintenance", **fields).status_code == 303
    look("archive")
    text = client.get(PATH).text
    assert "new disks" in text
    assert "maintenance</span>" in text
    assert post(client, "/maintenance/1/end").status_code == 303
    assert "new disks" not in client.get(PATH).text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"until": ""}, "until"),
        ({"until": "soon"}, "until"),
        ({"until": "2020-01-01T00:00"}, "until"),
        ({"reason": ""}, "reason"),
        ({"begin": "x"}, "begin"),
    ],
)
def test_a_maintenance_that_makes_no_sense_is_said_kept_and_changes_nothing(client, changes, says):
    fields = {"about": "arch<b>", "begin": "", "until": "2026-11-21T10:00", "reason": "new disks", **changes}
    answer = post(client, "/maintenance", **fields)
    assert answer.status_code == 422
    assert says in answer.text.partition('id="problem"')[2].partition("</p>")[0]
    assert 'value="arch&lt;b&gt;"' in answer.text
    assert client.get("/api/maintenance").json() == []


def test_a_test_shows_what_each_channel_says(client, pager):
    assert "was handed over" in post(client, f"{PATH}/test").text
    pager.works = False
    assert "ConnectionRefusedError" in post(client, f"{PATH}/test").text


def test_a_viewer_sees_and_changes_nothing(app, look):
    look("archive")
    viewer = signed_in(app, "viewer")
    assert "3 dead to archive" in viewer.get(PATH).text
    assert post(viewer, f"{PATH}/1/acknowledge").status_code == 403


def test_programs_do_the_same(app, board, look):
    look("archive")
    admin = signed_in(app, "operator", headers={"accept": "application/json"})
    csrf = form_token(admin.get(PATH).text)
    headers = {"x-csrf-token": csrf}
    (alert,) = admin.get("/api/alerts").json()
    assert (alert["kind"], alert["subject"], alert["notices"][0]["state"]) == ("dead", "archive", "SENT")
    told = admin.post(f"/api/alerts/{alert['id']}/acknowledge", headers=headers).json()
    assert told["acknowledged_by"] == "operator"
    body = {"until": (NOW + timedelta(hours=1)).isoformat(), "reason": "disks"}
    assert admin.post("/api/maintenance", json=body, headers=headers).json() == {"id": 1}
    naive = {**body, "until": "2026-11-21T10:00:00"}
    assert admin.post("/api/maintenance", json=naive, headers=headers).status_code == 422
    assert admin.post("/api/maintenance/1/end", headers=headers).json() == {"ended": True}
    assert admin.post("/api/maintenance/1/end", headers=headers).json() == {"ended": False}
    assert admin.get("/api/alerts/over").json() == []
    assert admin.get("/api/alerts/999").status_code == 404


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_something_is_called_is_text(client, look, name):
    look(name)
    answer = client.get(PATH)
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    assert "<img src=x" not in answer.text
    assert "\u202e" not in answer.text
    assert Page(answer.text).inline == []


def test_a_long_history_is_turned_by_cursor(client, look):
    look(*[f"d{number}" for number in range(60)])
    look(after=10)
    look(after=60)
    first = client.get(PATH).text
    assert first.count('data-l="Over"') == 50
    older = first.partition('rel="next" href="')[2].partition('"')[0]
    assert client.get(PATH + older).text.count('data-l="Over"') == 10
