"""Answers that are no page: their headers, what is not there, too large, unreadable or out of order."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from broker.errors import DatabaseUnavailable
from broker.web.app import create_app
from broker.web.security import FIELD
from broker.workflow.overview_port import HealthPart
from tests.doors import signed_in
from tests.integration.hospital_pages import state_of, token


@pytest.mark.parametrize("path", ["/", "/nope", "/api/deliveries", "/deliveries/999", "/orders?page=x"])
def test_every_answer_forbids_what_pages_do_not_need(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


def test_a_refusal_has_the_headers_too(client):
    assert "content-security-policy" in client.get("/", headers={"host": "evil"}).headers


@pytest.mark.parametrize(
    "path",
    ["/nope", "/orders/999", "/messages/999", "/deliveries/999", "/studies/9.9", "/studies/%3Cb%3E"],
)
def test_what_is_not_there_is_404_on_a_page_with_a_way_back(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert 'href="/"' in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/orders?page=0",
        "/orders?page=x",
        "/worklist?date=yesterday",
        "/deliveries/0",
        f"/deliveries/{2**63}",
        "/deliveries/abc",
        "/api/orders?limit=501",
    ],
)
def test_what_cannot_be_read_is_422(client, path):
    assert client.get(path).status_code == 422


def test_programs_are_answered_problem_json(client):
    answer = client.get("/api/orders?limit=x")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["instance"]) == (422, "/api/orders")
    assert body["detail"].startswith("limit: ")
    plain = client.get("/deliveries/999", headers={"accept": "*/*"})
    assert plain.headers["content-type"] == "application/problem+json"


def test_a_method_that_is_not_served_is_405(client):
    answer = client.delete("/deliveries")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"


def test_a_stream_for_which_there_is_no_room_is_refused_and_says_when_to_come_back(board):
    app = create_app(board)
    app.state.live.close()
    answer = signed_in(app).get("/overview/stream")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"


def test_healthz_is_200_when_all_serve_and_503_with_the_part_that_does_not(client, board):
    assert client.get("/healthz").status_code == 200
    parts = [HealthPart("hl7", True, ""), HealthPart("dicom", False, "no sign of life")]
    answer = TestClient(create_app(replace(board, health=lambda: parts))).get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["dicom"] == {"ok": False, "detail": "no sign of life"}
    assert answer.json()["parts"]["hl7"]["ok"] is True


def test_a_database_that_does_not_answer_is_503(board):
    class Down:
        def __getattr__(self, name):
            raise DatabaseUnavailable

    client = signed_in(create_app(replace(board, reports=Down())))
    for path in ("/", "/deliveries", "/api/orders"):
        assert client.get(path).status_code == 503


def test_a_defect_is_a_500_page_that_tells_nothing_and_keeps_the_headers(board, client):
    class Broken:
        def __getattr__(self, name):
            raise RuntimeError("HAYDN^JOSEPH")

    app = create_app(replace(board, reports=Broken()))
    answer = signed_in(app, raise_server_exceptions=False).get("/orders")
    assert answer.status_code == 500
    assert "HAYDN" not in answer.text
    assert "content-security-policy" in answer.headers


def test_a_large_request_is_refused_before_it_is_read(client, hospital):
    path = f"/deliveries/{hospital['dead']}/retry"
    token(client)
    assert client.post(path, data={FIELD: "x" * (1024 * 1024 + 1)}).status_code == 413
    assert client.post(path, content=b"", headers={"content-length": "many"}).status_code == 400


def test_a_large_form_in_chunks_is_refused_while_it_is_read(client, hospital):
    token(client)
    read = []

    def chunks():
        for number in range(1000):
            read.append(number)
            yield b"x" * 8192

    answer = client.post(
        f"/deliveries/{hospital['dead']}/retry",
        content=chunks(),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 413
    assert state_of(client, hospital["dead"])[0] == "DEAD"


def test_head_is_answered_like_get_without_a_body(client, hospital):
    for path in ("/", "/deliveries", "/api/orders", "/healthz", "/static/broker.css"):
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == client.get(path).headers["content-type"]
    assert client.head("/deliveries/999").status_code == 404


def test_static_files_stay_in_their_folder(client):
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/vendor/../../app.py"):
        assert client.get(path).status_code == 404
