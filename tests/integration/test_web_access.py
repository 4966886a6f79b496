"""The door of the pages: every route for every role, forms, programs, proxies, and what attacks find there."""

from dataclasses import replace
from datetime import timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from broker.domain.access import Role
from broker.web import security
from broker.web.access import SECURE_COOKIE, declaration, served_routes
from broker.web.app import create_app
from broker.web.ports import Front, Pace
from broker.web.security import FIELD, HEADER
from tests.doors import PASSWORD, TESTER, a_browser, form_token, sign_in, signed_in
from tests.integration.hospital_pages import events, fill

ROLES = ("nobody", "viewer", "operator", "admin")


# ---- every route for every role ------------------------------------------------------------------------


def test_every_route_lets_in_exactly_whom_it_declares(app, board):
    tokens = {
        role.value: board.access.tokens.issue(f"t-{role.value}", role, life=timedelta(days=1), by=TESTER)[1]
        for role in Role
    }
    app.state.live.close()  # streams answer at once that there is no room
    program = TestClient(app, follow_redirects=False, raise_server_exceptions=False)
    seen = 0
    for route in served_routes(app):
        needed = declaration(route)
        for method in sorted(route.methods):
            for role in ROLES:
                shown = {"authorization": f"Bearer {tokens[role]}"} if role != "nobody" else {}
                answer = program.request(method, fill(route.path), headers=shown)
                what = f"{method} {route.path} as {role}: {answer.status_code}"
                seen += 1
                if needed == "anybody":
                    assert answer.status_code != 401, what
                elif role == "nobody":
                    assert answer.status_code == 401, what
                    assert answer.headers["www-authenticate"].startswith("Bearer"), what
                elif ROLES.index(role) < ROLES.index(needed):
                    assert answer.status_code == 403, what
                    assert needed in answer.json()["detail"], what
                else:
                    assert answer.status_code not in {401, 403} or "is for people" in answer.text, what
    assert seen > 100


def test_only_the_door_itself_is_open_to_anybody(app):
    is_open = {route.path for route in served_routes(app) if declaration(route) == "anybody"}
    assert is_open == {"/healthz", "/sign-in", "/first-run"}


def test_whatever_changes_something_needs_an_operator_at_least(app):
    # asked by POST, because what is typed stays out of URLs
    lists = {"/orders", "/images", "/worklist"}
    searches = {f"/api/{noun}/search" for noun in ("orders", "studies", "worklist")}
    reads = {"/find", "/api/find", "/devices/{ae_title:path}/would"} | lists | searches
    own = {"/sign-out", "/account/password", "/account/privacy"}
    for route in served_routes(app):
        if route.methods - {"GET"} and declaration(route) == "viewer":
            assert route.path in reads | own, route.path


def nothing():
    return {}


@pytest.mark.parametrize("add", ["route", "mount"])
def test_an_application_with_a_route_that_declares_nothing_is_not_built(board, monkeypatch, add):
    from fastapi import APIRouter

    from broker.web import api

    extra = APIRouter()
    extra.include_router(api.router)
    if add == "route":
        extra.add_api_route("/api/secret", nothing)
    else:
        extra.mount("/inner", FastAPI())
    monkeypatch.setattr(api, "router", extra)
    with pytest.raises(TypeError, match="declare"):
        create_app(board)


# ---- forms ---------------------------------------------------------------------------------------------


def test_the_token_of_a_form_is_that_of_its_session_only(app, hospital):
    mine, theirs = signed_in(app, "operator"), signed_in(app, "admin")
    stolen = form_token(theirs.get("/account").text)
    assert mine.post(f"/deliveries/{hospital['dead']}/retry", data={FIELD: stolen}).status_code == 403
    planted = "x" * 43
    mine.cookies.set(security.COOKIE, planted)
    assert mine.post(f"/deliveries/{hospital['dead']}/retry", data={FIELD: planted}).status_code == 403


def test_signing_in_needs_the_token_of_the_form_too(app):
    given = {"name": "admin", "password": PASSWORD}
    assert a_browser(app).post("/sign-in", data=given).status_code == 403


def test_a_get_changes_nothing(app, board, hospital):
    browser = signed_in(app, "admin")
    before = len(events(board, "delivery retried by a person"))
    by_get = {route.path for route in served_routes(app) if "GET" in route.methods}
    for route in served_routes(app):
        if route.path not in by_get:
            answer = browser.get(fill(route.path))
            assert answer.status_code in {404, 405, 422}, route.path
    assert len(events(board, "delivery retried by a person")) == before


def test_a_viewer_is_shown_no_button_that_would_be_refused(app, hospital):
    page = f"/deliveries/{hospital['dead']}"
    assert "/retry" in signed_in(app, "operator").get(page).text
    for path in (page, "/deliveries"):
        text = signed_in(app, "viewer").get(path).text
        assert "/retry" not in text
        assert "/pause" not in text


def test_names_are_hidden_for_one_session_and_shown_again(app, hospital):
    browser, other = signed_in(app, "viewer"), signed_in(app, "viewer")
    pages = ["/worklist", "/orders", f"/orders/{hospital['order']}", "/images"]
    for hide, there in (("true", False), ("false", True)):
        sent = {FIELD: form_token(browser.get("/").text), "hide": hide}
        answer = browser.post(
            "/account/privacy", data=sent, headers={"referer": "http://testserver/orders?status=HELD"}
        )
        assert answer.headers["location"] == "/orders?status=HELD"
        for path in pages:
            text = browser.get(path).text
            assert ("HAYDN1, JOSEPH" in text) is there or path == "/images", path
            assert ("JOSEPH" in text) is there or path == "/images", path
        assert "HAYDN1, JOSEPH" in other.get("/worklist").text


# ---- programs ------------------------------------------------------------------------------------------


def test_a_program_shows_its_token_and_needs_no_form(app, board, hospital):
    key, token = board.access.tokens.issue("night job", Role.OPERATOR, life=timedelta(days=1), by=TESTER)
    program = TestClient(app, headers={"authorization": f"Bearer {token}"})
    answer = program.post(f"/api/deliveries/{hospital['dead']}/retry")
    assert (answer.status_code, answer.json()["state"]) == (200, "PENDING")
    (event,) = events(board, "delivery retried by a person")
    assert event["actor"] == f"night job (token {key})"


@pytest.mark.parametrize("how", ["revoked", "expired", "cut", "other scheme", "empty"])
def test_a_token_that_opens_nothing_is_401_with_the_reason_for_programs(app, board, clock, how):
    key, token = board.access.tokens.issue("job", Role.ADMIN, life=timedelta(days=1), by=TESTER)
    if how == "revoked":
        assert board.access.tokens.revoke(key, by=TESTER)
        assert not board.access.tokens.revoke(key, by=TESTER)
    if how == "expired":
        clock.advance(86400)
    shown = {"cut": f"Bearer {token[:-1]}", "other scheme": f"Basic {token}", "empty": "Bearer "}
    answer = TestClient(app).get("/api/orders", headers={"authorization": shown.get(how, f"Bearer {token}")})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_a_wrong_token_beside_a_session_is_refused(app):
    assert signed_in(app).get("/api/orders", headers={"authorization": "Bearer x"}).status_code == 401


def test_a_cookie_alone_changes_nothing_through_the_api(app, hospital):
    browser = signed_in(app, "operator")
    path = f"/api/deliveries/{hospital['dead']}/retry"
    assert browser.post(path).status_code == 403
    assert browser.post(path, headers={HEADER: form_token(browser.get("/account").text)}).status_code == 200


# ---- where a request comes from ------------------------------------------------------------------------


def whose_address(board, **headers):
    """Sign in wrongly; answer what the trail says about where from."""
    app = create_app(board)
    browser = TestClient(
        app,
        base_url="https://testserver",
        client=("10.0.0.2", 1),
        headers={"accept": "text/html", **headers},
    )
    sign_in(browser, "admin", "guess guess guess")
    return events(board, "sign-in refused")[-1]["details"]["address"]


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("1.2.3.4, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.0.0.3", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, garbage", "10.0.0.2"),
        ("", "10.0.0.2"),
        ("10.0.0.9", "10.0.0.9"),
    ],
)
def test_the_word_of_the_proxy_is_taken_and_that_of_its_client_is_not(board, said, address):
    behind = replace(board, front=Front(trusted=("10.0.0.0/24",)))
    assert whose_address(behind, **{"x-forwarded-for": said}) == address


def test_without_a_declared_proxy_nobodys_word_is_taken(board):
    assert whose_address(board, **{"x-forwarded-for": "203.0.113.7"}) == "10.0.0.2"


def test_behind_a_proxy_nobody_else_is_served_and_nothing_without_tls(board):
    app = create_app(replace(board, front=Front(trusted=("10.0.0.2",))))
    stranger = TestClient(app, client=("10.0.0.3", 1))
    assert stranger.get("/sign-in", headers={"x-forwarded-for": "10.0.0.2"}).status_code == 403
    proxy = TestClient(app, client=("10.0.0.2", 1))
    assert proxy.get("/sign-in", headers={"x-forwarded-proto": "http"}).status_code == 403
    assert proxy.get("/sign-in", headers={"x-forwarded-proto": "https"}).status_code == 200
    assert TestClient(app, client=("127.0.0.1", 1)).get("/healthz").status_code == 200


@pytest.mark.parametrize("front", [Front(tls=True), Front(trusted=("10.0.0.2",))])
def test_by_tls_the_cookies_are_secure_and_bound_to_this_host(board, front):
    app = create_app(replace(board, front=front))
    browser = TestClient(
        app,
        base_url="https://testserver",
        client=("10.0.0.2", 1),
        headers={"accept": "text/html"},
        follow_redirects=False,
    )
    given = sign_in(browser).headers.get_list("set-cookie")
    (mine,) = [cookie for cookie in given if cookie.startswith(SECURE_COOKIE)]
    assert "; secure" in mine.lower()
    answer = browser.get("/")
    assert answer.status_code == 200
    assert "max-age=31536000" in answer.headers["strict-transport-security"]


def test_an_address_that_asks_too_fast_is_told_to_wait_and_others_are_not(board, clock):
    app = create_app(replace(board, pace=Pace(per_s=20, burst=60)))
    fast = TestClient(app, client=("203.0.113.7", 1))
    codes = [fast.get("/sign-in").status_code for _ in range(70)]
    assert codes == [200] * 60 + [429] * 10
    assert int(fast.get("/sign-in").headers["retry-after"]) == 1
    assert TestClient(app, client=("203.0.113.8", 1)).get("/sign-in").status_code == 200
    assert all(TestClient(app, client=("127.0.0.1", 1)).get("/sign-in").is_success for _ in range(70))
    clock.advance(1)
    assert [fast.get("/sign-in").status_code for _ in range(21)] == [200] * 20 + [429]
