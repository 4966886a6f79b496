"""The door of the pages: every route for every role, sessions, the first run, proxies, and what attacks find there."""

import csv
import html
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from broker.domain.access import Role
from broker.errors import OutOfResources
from broker.web import security
from broker.web.access import COOKIE, SECURE_COOKIE, declaration, served_routes
from broker.web.app import create_app
from broker.web.pages.sign_in import own_path
from broker.web.ports import Front, Pace
from broker.web.security import FIELD, HEADER
from tests.doors import (
    PASSWORD,
    TESTER,
    a_browser,
    an_access,
    form_token,
    quick_hasher,
    sign_in,
    signed_in,
    with_accounts,
)

ROLES = ("nobody", "viewer", "operator", "admin")


def fill(path):
    """Put something into the path that reads as an id and as a name."""
    return re.sub(r"{[^}]+}", "999999", path)


@pytest.fixture
def app(board):
    return create_app(board)


def events(board, name):
    from sqlalchemy import select

    from broker.db.engine import reading
    from broker.db.schema import EVENT

    with reading(board.reports._engine) as connection:
        found = connection.execute(select(EVENT).where(EVENT.c.name == name).order_by(EVENT.c.id))
        return [dict(row) for row in found.mappings()]


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


# ---- signing in ----------------------------------------------------------------------------------------


def test_a_person_is_asked_to_sign_in_and_brought_back(app):
    browser = a_browser(app)
    answer = browser.get("/deliveries?state=DEAD")
    assert answer.headers["location"] == "/sign-in?next=%2Fdeliveries%3Fstate%3DDEAD"
    page = browser.get(answer.headers["location"]).text
    assert 'name="next" value="/deliveries?state=DEAD"' in page
    back = sign_in(browser, "viewer", next="/deliveries?state=DEAD")
    assert (back.status_code, back.headers["location"]) == (303, "/deliveries?state=DEAD")
    shown = browser.get("/deliveries?state=DEAD").text
    assert 'on call: <a href="/account"><bdi>viewer</bdi></a>' in shown


def test_a_part_of_a_page_sends_the_whole_page_to_the_door(app):
    answer = a_browser(app).get("/overview/live", headers={"hx-request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/sign-in")


@pytest.mark.parametrize(
    "there",
    [
        "https://evil.example", "//evil.example", "/\\evil.example", "\\/evil.example", "/\t/evil.example",
        "/\n/evil", "javascript:alert(1)", "", "deliveries", "/" + "x" * 600, "/\u2215evil", "/%0d%0aSet-Cookie:a",
    ],
)  # fmt: skip
def test_signing_in_leads_nowhere_else(app, there):
    where = own_path(there)
    assert where.startswith("/")
    assert not where.startswith(("//", "/\\"))
    answer = sign_in(a_browser(app), next=there)
    assert answer.headers["location"] == where
    assert where == "/" or there == "/%0d%0aSet-Cookie:a"


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("admin", "not the password"),
        ("nobody", PASSWORD),
        ("", ""),
        ("admin", ""),
        ("admin", "x" * 1025),
        ("admin", "\x00" * 12),
        ("a" * 300, PASSWORD),
        ("admin'--", PASSWORD),
        ("<script>", PASSWORD),
    ],
)
def test_a_wrong_name_and_a_wrong_password_are_told_the_same(app, name, password):
    answer = sign_in(a_browser(app), name, password)
    assert answer.status_code == 403
    assert "The name or the password is not right." in answer.text
    assert COOKIE not in answer.headers.get("set-cookie", "")
    assert "<script>" not in answer.text


def test_names_and_passwords_that_look_alike_are_the_same(app, board):
    board.access.accounts.add("Zoë", Role.VIEWER, "Ångström ﬁve doors", by=TESTER)
    for name, password in [
        ("zoë", "A\u030angstro\u0308m five doors"),
        ("ZOE\u0308", "\u212bngström\u3000five\u00a0doors"),
    ]:
        assert sign_in(a_browser(app), name, password).status_code == 303


def test_a_session_that_was_brought_along_is_worth_nothing(app, board):
    browser = a_browser(app)
    browser.cookies.set(COOKIE, "x" * 43)
    assert sign_in(browser).status_code == 303
    mine = browser.cookies.get(COOKIE, domain="testserver.local")
    assert mine != "x" * 43
    stranger = a_browser(app)
    stranger.cookies.set(COOKIE, "x" * 43)
    assert stranger.get("/").status_code == 303


def test_signing_in_again_ends_the_session_before(app):
    browser = signed_in(app)
    before = browser.cookies[COOKIE]
    page = browser.get("/account").text
    answer = browser.post("/sign-in", data={FIELD: form_token(page), "name": "viewer", "password": PASSWORD})
    assert answer.status_code == 303
    other = a_browser(app)
    other.cookies.set(COOKIE, before)
    assert other.get("/").status_code == 303


def test_signing_out_ends_the_session_on_the_server(app, board):
    browser = signed_in(app)
    kept = browser.cookies[COOKIE]
    answer = browser.post("/sign-out", data={FIELD: form_token(browser.get("/").text)})
    assert answer.headers["location"] == "/sign-in"
    browser.cookies.set(COOKIE, kept)
    assert browser.get("/").headers["location"].startswith("/sign-in")
    (event,) = events(board, "signed out")
    assert (event["actor"], event["details"]["address"]) == ("admin", "testclient")


def test_a_session_ends_when_nobody_does_anything_and_pages_that_renew_themselves_do_not_count(app, clock):
    browser = signed_in(app)
    for _ in range(14):
        clock.advance(60)
        assert browser.get("/overview/live", headers={"hx-request": "true"}).status_code == 200
    clock.advance(61)
    assert browser.get("/overview/live", headers={"hx-request": "true"}).status_code == 401
    assert browser.get("/").status_code == 303


def test_a_session_ends_after_twelve_hours_whatever_is_done(app, clock):
    browser = signed_in(app)
    for _ in range(71):
        clock.advance(600)
        assert browser.get("/account").status_code == 200
    clock.advance(601)
    assert browser.get("/account").status_code == 303


def test_the_cookies_are_out_of_reach_of_scripts_and_other_sites(app):
    browser = a_browser(app)
    before = browser.get("/sign-in").headers["set-cookie"].lower()
    assert "httponly" in before
    assert "samesite=strict" in before
    given = [c.lower() for c in sign_in(browser).headers.get_list("set-cookie") if c.startswith(COOKIE)]
    assert len(given) == 1
    assert "httponly" in given[0]
    assert "samesite=lax" in given[0]
    assert "path=/" in given[0]
    assert "domain" not in given[0]


def test_the_database_holds_no_token_and_no_password(app, board, sqlite_url):
    from pathlib import Path

    browser = signed_in(app)
    _, token = board.access.tokens.issue("prom", Role.VIEWER, life=timedelta(days=1), by=TESTER)
    stored = b"".join(
        path.read_bytes()
        for path in Path(sqlite_url.removeprefix("sqlite:///")).parent.glob("broker.sqlite3*")
    )
    assert b"$argon2id$" in stored
    for secret in (browser.cookies[COOKIE], token, PASSWORD):
        assert secret.encode() not in stored


def test_a_disabled_account_is_out_at_once_and_comes_back_with_its_password(app, board):
    browser = signed_in(app, "operator")
    board.access.accounts.disable("operator", by=TESTER)
    assert browser.get("/deliveries").status_code == 303
    assert sign_in(a_browser(app), "operator").status_code == 403
    board.access.accounts.enable("operator", by=TESTER)
    assert browser.get("/deliveries").status_code == 303, "the old session stays ended"
    assert sign_in(a_browser(app), "operator").status_code == 303


def test_a_change_of_role_ends_the_sessions(app, board):
    browser = signed_in(app, "operator")
    board.access.accounts.change_role("operator", Role.VIEWER, by=TESTER)
    assert browser.get("/deliveries").status_code == 303
    assert events(board, "account changed")[0]["details"]["after"] == "viewer"


def test_ones_own_password_is_changed_and_other_browsers_are_signed_out(app, board):
    browser, other = signed_in(app, "viewer"), signed_in(app, "viewer")
    before = browser.cookies[COOKIE]
    sent = {FIELD: form_token(browser.get("/account").text), "password": "three lamps, no door"}
    wrong = browser.post("/account/password", data={**sent, "current": "no", "again": sent["password"]})
    assert (wrong.status_code, "current password is not right" in wrong.text) == (403, True)
    unlike = browser.post("/account/password", data={**sent, "current": PASSWORD, "again": "x"})
    assert "not the same" in unlike.text
    weak = browser.post(
        "/account/password", data={**sent, "current": PASSWORD, "password": "short", "again": "short"}
    )
    assert (weak.status_code, "at least 12 characters" in weak.text) == (422, True)
    done = browser.post("/account/password", data={**sent, "current": PASSWORD, "again": sent["password"]})
    assert done.headers["location"] == "/account?changed=true"
    assert browser.cookies[COOKIE] != before
    assert browser.get("/account?changed=true").status_code == 200
    assert other.get("/account").status_code == 303
    assert sign_in(a_browser(app), "viewer").status_code == 403
    assert sign_in(a_browser(app), "viewer", sent["password"]).status_code == 303
    assert len(events(board, "password changed")) == 1


# ---- guessing ------------------------------------------------------------------------------------------


def test_who_guesses_waits_longer_and_longer_and_the_right_password_does_not_help(app, clock):
    browser = a_browser(app)
    for _ in range(5):
        assert sign_in(browser, "admin", "guess guess guess").status_code == 403
    waits = []
    for _ in range(3):
        refused = sign_in(browser, "admin", PASSWORD)
        assert refused.status_code == 429
        waits.append(int(refused.headers["retry-after"]))
        clock.advance(waits[-1])
        assert sign_in(browser, "admin", "guess guess guess").status_code == 403
    assert waits == [13, 25, 49]
    clock.advance(15 * 60)
    assert sign_in(browser, "admin", PASSWORD).status_code == 303


def test_a_hundred_guesses_at_once_are_a_hundred(app, board):
    def guess(_):
        try:
            board.access.sign_in.sign_in("admin", "guess guess guess", address="203.0.113.9")
        except Exception as error:
            return type(error).__name__

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(guess, range(100)))
    assert outcomes.count("NotAllowed") <= 5
    assert len(events(board, "sign-in refused")) <= 5, "what is written is bounded too"


def test_guessing_from_many_addresses_is_slowed_and_does_not_keep_the_person_out(board, clock):
    door = board.access.sign_in
    assert door.sign_in("admin", PASSWORD, address="198.51.100.1")
    let_in = 0
    for number in range(200):
        try:
            door.sign_in("admin", "guess guess guess", address=f"203.0.113.{number}")
        except Exception as error:
            let_in += type(error).__name__ == "NotAllowed"
    assert let_in == 29, "and the one who came first"
    assert door.sign_in("admin", PASSWORD, address="198.51.100.1"), "from where the person always comes"


def test_many_names_from_one_address_are_slowed(board):
    refused = []
    for number in range(40):
        try:
            board.access.sign_in.sign_in(f"user{number}", PASSWORD, address="203.0.113.5")
        except Exception as error:
            refused.append(type(error).__name__)
    assert refused.count("NotAllowed") == 20


def test_a_name_nobody_has_is_not_kept(app, board):
    sign_in(a_browser(app), "my-own-secret-password", "x")
    (event,) = events(board, "sign-in refused")
    assert event["actor"] == "nobody known"
    assert "my-own-secret" not in json.dumps(event["details"])


def test_an_unknown_name_is_hashed_for_as_a_known_one(sqlite_engine, sqlite_uow_factory, clock, tmp_path):
    hasher = quick_hasher()
    asked = []
    plain = hasher.verify
    hasher.verify = lambda kept, typed: asked.append(kept) or plain(kept, typed)
    access = with_accounts(an_access(sqlite_engine, sqlite_uow_factory, clock, tmp_path, hasher=hasher))
    for name in ("admin", "nobody", "", "b" * 300):
        with pytest.raises(Exception, match="is not right"):
            access.sign_in.sign_in(name, "guess guess guess", address="a")
    parameters = {kept.rsplit("$", 2)[0] for kept in asked}
    assert (len(asked), len(parameters)) == (4, 1)


def test_hashing_is_bounded_and_who_comes_too_much_is_refused_at_once():
    from broker.passwords import Argon2idHasher

    hasher = Argon2idHasher(at_once=1, waiting=1)
    hasher._argon2 = Slow()
    answers = []

    def ask():
        try:
            answers.append(hasher.hash("x"))
        except OutOfResources:
            answers.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads[:]:
        thread.join(0.01)
    Slow.go.set()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == ["hash"] * 2 + ["refused"] * 3


class Slow:
    go = threading.Event()

    def hash(self, password):
        assert self.go.wait(20)
        return "hash"


# ---- first run -----------------------------------------------------------------------------------------


@pytest.fixture
def new(board, sqlite_engine, sqlite_uow_factory, clock, tmp_path):
    """A broker nobody can sign in to yet."""
    from sqlalchemy import text

    with sqlite_engine.begin() as connection:
        connection.execute(text("DELETE FROM account"))
    return replace(board, access=an_access(sqlite_engine, sqlite_uow_factory, clock, tmp_path))


def make_first(browser, token, **fields):
    page = browser.get("/first-run").text
    given = {"token": token, "name": "Ada", "password": PASSWORD, "again": PASSWORD, **fields}
    return browser.post("/first-run", data={FIELD: form_token(page), **given})


def test_the_first_account_is_made_with_the_token_and_only_once(new, tmp_path):
    app = create_app(new)
    token = new.access.accounts.first_run_token()
    file = tmp_path / "first-run-token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert new.access.accounts.first_run_token() == token, "a second start makes no second one"
    browser = a_browser(app)
    assert browser.get("/sign-in").headers["location"] == "/first-run"
    for wrong in ("", "x", token[:-1], token + "x", "ü" * 43):
        refused = make_first(browser, wrong)
        assert (refused.status_code, "token is not right" in refused.text) == (403, True)
    weak = make_first(browser, token, password="adaadaadaada", again="adaadaadaada")
    assert weak.status_code == 422
    assert 'value="Ada"' in weak.text, "what was typed stays"
    made = make_first(browser, token)
    assert (made.status_code, made.headers["location"]) == (303, "/")
    assert browser.get("/").status_code == 200
    assert not file.exists()
    assert new.access.accounts.first_run_token() is None
    assert make_first_again(app, token) == 403
    assert [event["actor"] for event in events(new, "account added")][-1] == "ada"


def make_first_again(app, token):
    browser = a_browser(app)
    page = browser.get("/sign-in").text
    given = {"token": token, "name": "eve", "password": PASSWORD, "again": PASSWORD}
    return browser.post("/first-run", data={FIELD: form_token(page), **given}).status_code


def test_of_many_who_hold_the_link_one_is_first(new):
    token = new.access.accounts.first_run_token()

    def make(number):
        try:
            return new.access.accounts.add_first(token, f"user{number}", PASSWORD, address="a")
        except Exception as error:
            return type(error).__name__

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(make, range(8)))
    made = [outcome for outcome in outcomes if outcome.startswith("user")]
    assert len(made) == 1
    assert [account.name for account in new.access.reports.accounts()] == made


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


# ---- the page of the admin ------------------------------------------------------------------------------


def press(browser, path, **fields):
    return browser.post(path, data={FIELD: form_token(browser.get("/admin").text), **fields})


def test_an_admin_adds_changes_and_disables_accounts_on_one_page(app, board):
    browser = signed_in(app)
    weak = press(browser, "/admin/accounts", name="Zoë", role="viewer", password="short")
    assert (weak.status_code, "at least 12" in weak.text, 'value="Zoë"' in weak.text) == (422, True, True)
    assert "viewer, operator or admin" in press(browser, "/admin/accounts", name="x", role="god").text
    given = {"name": "Zoë", "role": "viewer", "password": "three lamps, no door"}
    assert press(browser, "/admin/accounts", **given).status_code == 303
    assert press(browser, "/admin/accounts", **given).status_code == 409
    guest = a_browser(app)
    assert sign_in(guest, "zoë", given["password"]).status_code == 303
    assert press(browser, "/admin/accounts/zoë/role", role="operator").status_code == 303
    assert guest.get("/account").status_code == 303
    assert press(browser, "/admin/accounts/zoë/password", password="four lamps, no door").status_code == 303
    assert sign_in(guest, "zoë", "four lamps, no door").status_code == 303
    assert press(browser, "/admin/accounts/zoë/disable").status_code == 303
    assert guest.get("/account").status_code == 303
    assert press(browser, "/admin/accounts/zoë/enable").status_code == 303
    assert press(browser, "/admin/accounts/nobody/enable").status_code == 404
    only = press(browser, "/admin/accounts/admin/disable")
    assert (only.status_code, "only admin" in only.text) == (409, True)
    assert {event["actor"] for event in events(board, "account disabled")} == {"admin"}


def test_many_accounts_and_tokens_are_shown_in_parts_and_found_by_a_beginning(app, board, store):
    now, life = board.clock.now(), timedelta(days=1)

    def add(uow):
        for n in range(60):
            uow.accounts.add(f"p{n:02}", Role.VIEWER, "none", now=now)
            uow.api_tokens.add(
                n.to_bytes(32), f"t{n:02}", Role.VIEWER, issued_by="p00", now=now, expires_at=now + life
            )

    store(add)
    browser = signed_in(app)
    first = browser.get("/admin").text
    assert (first.count("<summary>Change "), first.count('data-l="Id"')) == (50, 50)
    further = [html.unescape(link) for link in re.findall(r'rel="next" href="([^"]+)"', first)]
    accounts, tokens = (browser.get(link).text for link in further)
    assert (accounts.count("<summary>Change "), tokens.count('data-l="Id"')) == (60 + 3 - 50, 10)
    found = re.findall(r"<summary>Change (\w+)", browser.get("/admin?name=P5").text)
    assert found[:2] == ["p50", "p51"]
    assert "Nothing fits" in browser.get("/admin?name=zzz").text
    assert browser.get("/admin?before=x").status_code == 422


def test_a_token_is_shown_once_and_revoked(app):
    browser = signed_in(app)
    assert press(browser, "/admin/tokens", label="", role="viewer", days="9").status_code == 422
    assert press(browser, "/admin/tokens", label="prom", role="viewer", days="9999").status_code == 422
    made = press(browser, "/admin/tokens", label="<b>prom", role="viewer", days="9").text
    import re

    token = re.search(r"<code>(wlb_[^<]+)</code>", made)[1]
    program = TestClient(app, headers={"authorization": f"Bearer {token}"})
    assert program.get("/api/orders").status_code == 200
    assert program.get("/admin").status_code == 403
    listed = browser.get("/admin").text
    assert token not in listed
    assert "&lt;b&gt;prom" in listed
    assert press(browser, "/admin/tokens/1/revoke").status_code == 303
    assert program.get("/api/orders").status_code == 401


def test_what_was_found_in_the_trail_is_taken_away_as_a_file_in_which_nothing_runs(app, board, hospital):
    signed_in(app, "viewer").get(f"/orders/{hospital['order']}")
    browser = signed_in(app)
    press(browser, "/find", q="=cmd|' /C calc'!A0")
    taken = press(browser, "/admin/audit/download", patient="PID1", what="viewed")
    assert taken.headers["content-type"] == "text/csv; charset=utf-8"
    assert re.fullmatch(
        r'attachment; filename="audit-\d{8}-\d{6}\.csv"', taken.headers["content-disposition"]
    )
    rows = list(csv.DictReader(io.StringIO(taken.text)))
    assert {row["what"] for row in rows} == {"viewed"}
    assert ("viewer", str(hospital["order"])) in {(row["who"], row["order"]) for row in rows}
    (told,) = events(board, "audit downloaded")
    assert told["actor"] == "admin"
    assert (told["details"]["patient"], told["details"]["events"]) == ("PID1", len(rows))
    press(browser, "/admin/accounts", name="@sum", role="viewer", password=PASSWORD)
    everything = list(csv.DictReader(io.StringIO(press(browser, "/admin/audit/download").text)))
    assert not [cell for row in everything for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    assert press(browser, "/admin/audit/download", order="x").status_code == 422


def test_who_looked_at_a_patient_is_asked_on_a_page_and_verified(app, board, hospital, sqlite_engine):
    from broker.db.seal import seal_events

    signed_in(app, "viewer").get(f"/orders/{hospital['order']}")
    browser = signed_in(app)
    found = press(browser, "/admin/audit", patient="PID1", what="viewed")
    assert found.url.path == "/admin/audit"
    assert "PID1" not in str(found.url)
    rows = found.text.partition("<tbody>")[2]
    assert "<bdi>viewer</bdi>" in rows
    assert f'href="/orders/{hospital["order"]}"' in rows
    assert "Nothing fits" in press(browser, "/admin/audit", patient="NOBODY").text
    for wrong in ({"order": "x"}, {"since": "yesterday"}, {"before": "-1"}):
        assert press(browser, "/admin/audit", **wrong).status_code == 422
    seal_events(sqlite_engine)
    verified = press(browser, "/admin/audit/verify", patient="PID1", what="viewed").text
    assert "Nothing was changed" in verified
    assert "<bdi>viewer</bdi>" in verified.partition("<tbody>")[2], "what was found stays"
    with sqlite_engine.begin() as connection:
        connection.exec_driver_sql("UPDATE event SET actor = 'x' WHERE seal_no = 1")
    assert "not what was sealed" in press(browser, "/admin/audit/verify").text
    assert "Admin" not in signed_in(app, "viewer").get("/").text
