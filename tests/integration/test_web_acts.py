"""What is pressed on a page: done once, and only with the token, the origin and the host of the page."""

import pytest
from fastapi.testclient import TestClient

from broker.web.security import FIELD, HEADER
from tests.builders import NOW
from tests.integration.hospital_pages import press, state_of, token


def test_a_delivery_is_retried_from_its_page(client, hospital):
    answer = press(client, f"/deliveries/{hospital['dead']}/retry")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/deliveries/{hospital['dead']}"
    assert state_of(client, hospital["dead"]) == ("PENDING", 3, 0)
    assert "retried by operator" in client.get(answer.headers["location"]).text


def test_a_delivery_is_cancelled_from_its_page(client, hospital):
    answer = press(client, f"/deliveries/{hospital['waiting']}/cancel")
    assert answer.status_code == 303
    assert state_of(client, hospital["waiting"])[0] == "CANCELLED"


@pytest.mark.parametrize("act", ["retry", "cancel"])
def test_an_illegal_act_is_refused_with_409_and_nothing_changes(client, hospital, act):
    before, events = state_of(client, hospital["done"]), client.get(f"/deliveries/{hospital['done']}").text
    answer = press(client, f"/deliveries/{hospital['done']}/{act}")
    assert answer.status_code == 409
    assert "Nothing was changed" in answer.text
    assert state_of(client, hospital["done"]) == before
    assert client.get(f"/deliveries/{hospital['done']}").text == events


def test_a_destination_is_paused_and_resumed(client, hospital, board):
    assert press(client, "/destinations/archive/pause").headers["location"] == "/destinations/archive"
    assert board.reports.destinations(now=NOW)[0].state == "paused"
    assert "Resume: send the one that waits" in client.get("/deliveries").text
    assert press(client, "/destinations/archive/resume").status_code == 303
    assert board.reports.destinations(now=NOW)[0].state == "up"
    assert press(client, "/destinations/nowhere/pause").status_code == 404


@pytest.mark.parametrize("sent", [None, "", "x" * 43, "ü" * 43, "0"])
def test_a_missing_or_wrong_token_is_refused_and_nothing_changes(client, hospital, sent):
    token(client)
    before = state_of(client, hospital["dead"])
    path = f"/deliveries/{hospital['dead']}/retry"
    assert client.post(path, data={} if sent is None else {FIELD: sent}).status_code == 403
    header = {} if sent is None else {HEADER: sent.encode()}
    assert client.post(f"/api{path}", headers=header).status_code == 403
    assert client.post(f"/api{path}", data={FIELD: token(client)}).status_code == 415, "a form is no call"
    assert state_of(client, hospital["dead"]) == before


def test_a_token_without_its_session_is_refused(client, hospital):
    known, before = token(client), state_of(client, hospital["dead"])
    stranger = TestClient(client.app, follow_redirects=False)
    answer = stranger.post(f"/deliveries/{hospital['dead']}/retry", data={FIELD: known})
    assert answer.status_code == 401
    assert state_of(client, hospital["dead"]) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_foreign_origin_is_refused_although_its_token_is_right(client, hospital, headers):
    before = state_of(client, hospital["dead"])
    assert press(client, f"/deliveries/{hospital['dead']}/retry", **headers).status_code == 403
    assert state_of(client, hospital["dead"]) == before


def test_its_own_origin_is_taken(client, hospital):
    headers = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    assert press(client, f"/deliveries/{hospital['dead']}/retry", **headers).status_code == 303


@pytest.mark.parametrize(
    "host", ["evil.example", "testserver.evil.example", "", "[", "testserver@evil", "a b"]
)
def test_a_wrong_host_is_refused_with_421(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421


def test_its_host_is_served_on_any_port_in_any_case(client):
    assert client.get("/", headers={"host": "TestServer:8080"}).status_code == 200
