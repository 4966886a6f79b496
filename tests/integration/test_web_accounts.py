"""Accounts, sessions, tokens and the trail by the JSON API: the same operations as on the pages, for admins only."""

import pytest
from fastapi.testclient import TestClient

from broker.db.seal import seal_events
from broker.domain.access import Role
from broker.web.access import COOKIE, declaration, served_routes
from broker.web.app import create_app
from broker.workflow.audit_collectors import CollectorLine
from tests.doors import PASSWORD, TESTER, a_browser, form_token, sign_in, signed_in
from tests.integration.hospital_pages import events

NEW_PASSWORD = "two lamps, one door"


@pytest.fixture
def program(app, board):
    from datetime import timedelta

    _, token = board.access.tokens.issue("tests", Role.ADMIN, life=timedelta(days=1), by=TESTER)
    return TestClient(app, headers={"authorization": f"Bearer {token}"})


def test_an_account_is_added_changed_disabled_and_let_in_again(app, program, board):
    added = program.post("/api/accounts", json={"name": "Zoe", "role": "operator", "password": PASSWORD})
    assert added.status_code == 201
    assert (added.json()["name"], added.json()["role"]) == ("zoe", "operator")
    assert "hash" not in added.text
    assert signed_in(app, "zoe").get("/deliveries").status_code == 200
    changed = {"name": "zoe", "changed": True}
    assert program.post("/api/accounts/zoe/role", json={"role": "viewer"}).json() == changed
    assert program.post("/api/accounts/zoe/role", json={"role": "viewer"}).json() == changed | {
        "changed": False
    }
    assert program.post("/api/accounts/zoe/password", json={"password": NEW_PASSWORD}).json() == changed
    assert sign_in(a_browser(app), "zoe", NEW_PASSWORD).status_code == 303
    assert program.post("/api/accounts/zoe/disable").json() == changed
    assert sign_in(a_browser(app), "zoe", NEW_PASSWORD).status_code == 403
    assert program.get("/api/accounts/zoe").json()["is_disabled"] is True
    assert program.post("/api/accounts/zoe/enable").json() == changed
    assert "zoe" in [one["name"] for one in program.get("/api/accounts").json()]
    (event,) = [one for one in events(board, "account added") if one["details"]["account"] == "zoe"]
    assert event["actor"].startswith("tests (token")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/accounts", {"name": "admin", "password": PASSWORD}, 409),
        ("/api/accounts", {"name": "zoe", "password": "short"}, 422),
        ("/api/accounts", {"name": "<script>", "password": PASSWORD}, 422),
        ("/api/accounts", {"name": "zoe", "password": PASSWORD, "is_admin": True}, 422),
        ("/api/accounts", {"name": "zoe", "password": PASSWORD, "role": "root"}, 422),
        ("/api/accounts/admin/role", {"role": "viewer"}, 409),
        ("/api/accounts/admin/disable", {}, 409),
        ("/api/accounts/nobody/disable", {}, 404),
        ("/api/accounts/viewer/password", {"password": "passwordpassword"}, 422),
        ("/api/tokens", {"label": "", "days": 3}, 422),
        ("/api/tokens", {"label": "x", "days": 367}, 422),
        ("/api/tokens/4711/revoke", {}, 404),
        ("/api/audit/search", {"since": "2026-11-21T08:00:00"}, 422),
        ("/api/audit/search", {"what": "teleported"}, 422),
        ("/api/audit/search", {"patient": "a\x00b"}, 422),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(program, board, path, body, status):
    before = board.access.reports.accounts(), board.access.reports.api_tokens()
    answer = program.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert PASSWORD not in answer.text
    assert [one.name for one in board.access.reports.accounts()] == [one.name for one in before[0]]
    assert len(board.access.reports.api_tokens()) == len(before[1])


def test_a_token_is_answered_once_and_revoked(app, program, board):
    made = program.post("/api/tokens", json={"label": "wall", "role": "viewer", "days": 7})
    assert made.status_code == 201
    token, key = made.json()["token"], made.json()["id"]
    other = TestClient(app, headers={"authorization": f"Bearer {token}"})
    assert other.get("/api/session").json() == {
        "name": f"wall (token {key})",
        "role": "viewer",
        "kind": "token",
    }
    assert other.get("/api/tokens").status_code == 403
    listed = program.get("/api/tokens")
    assert token not in listed.text
    assert "hash" not in listed.text
    assert program.post(f"/api/tokens/{key}/revoke").json() == {"id": key, "ended": True}
    assert program.post(f"/api/tokens/{key}/revoke").json() == {"id": key, "ended": False}
    assert other.get("/api/session").status_code == 401


def test_sessions_are_listed_and_ended_by_api_and_page(app, program, board, clock):
    one, two = signed_in(app, "viewer"), signed_in(app, "operator")
    listed = program.get("/api/sessions").json()
    assert [line["name"] for line in listed] == ["operator", "viewer"]
    assert program.get("/api/sessions", params={"after": listed[0]["id"]}).json() == listed[1:]
    ended = {"id": listed[1]["id"], "ended": True}
    assert program.post(f"/api/sessions/{listed[1]['id']}/end").json() == ended
    assert program.post(f"/api/sessions/{listed[1]['id']}/end").json() == ended | {"ended": False}
    assert one.get("/orders").status_code == 303
    (event,) = events(board, "signed out")
    assert (event["details"]["account"], event["actor"].startswith("tests")) == ("viewer", True)
    admin = signed_in(app, "admin")
    page = admin.get("/admin").text
    assert "Who is signed in" in page
    assert "this browser" in page
    answer = admin.post(f"/admin/sessions/{listed[0]['id']}/end", data={"csrf": form_token(page)})
    assert answer.headers["location"] == "/admin#sessions"
    assert two.get("/orders").status_code == 303
    clock.advance(16 * 60)
    assert program.get("/api/sessions").json() == []


def test_the_trail_is_searched_verified_and_that_is_an_event(program, board, sqlite_engine):
    seal_events(sqlite_engine)
    found = program.post("/api/audit/search", json={"what": "account added", "limit": 2}).json()
    assert [line["what"] for line in found] == ["account added"] * 2
    more = program.post("/api/audit/search", json={"what": "account added", "before": found[-1]["id"]}).json()
    assert [line["id"] for line in more] == sorted((line["id"] for line in more), reverse=True)
    assert all(line["id"] < found[-1]["id"] for line in more)
    assert program.post("/api/audit/verify").json()["problems"] == []
    read = [one["details"] for one in events(board, "audit trail read")]
    assert [(one["how"], one["asked"]) for one in read] == [
        ("searched", "what account added"),
        ("verified", ""),
    ]


def test_collectors_are_told_by_api_and_page(board, clock):
    from dataclasses import replace
    from datetime import timedelta

    line = CollectorLine(
        "siem",
        "siem:6514",
        "tls",
        "failing",
        3,
        clock.now(),
        None,
        clock.now(),
        "siem:6514: <b>TimeoutError</b>",
    )
    app = create_app(replace(board, access=replace(board.access, collectors=lambda: [line])))
    page = signed_in(app, "admin").get("/admin/audit").text
    assert 'id="collectors"' in page
    assert "&lt;b&gt;TimeoutError" in page
    _, token = board.access.tokens.issue("t", Role.ADMIN, life=timedelta(days=1), by=TESTER)
    (told,) = (
        TestClient(app, headers={"authorization": f"Bearer {token}"}).get("/api/audit/collectors").json()
    )
    assert (told["name"], told["state"], told["waiting"]) == ("siem", "failing", 3)


def test_the_description_says_how_to_ask_and_the_role_it_needs(app, program):
    document = program.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert (schemes["session"]["in"], schemes["session"]["name"]) == ("cookie", COOKIE)
    assert schemes["token"]["scheme"] == "bearer"
    needed = {
        (route.path_format, method.lower()): declaration(route)
        for route in served_routes(app)
        for method in route.methods
    }
    seen = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            role = needed[path, method]
            assert operation["security"] == ([] if role == "anybody" else [{"session": []}, {"token": []}]), (
                path
            )
            assert operation.get("x-role") == (None if role == "anybody" else role), path
            seen += role == "admin"
    assert seen >= 12
