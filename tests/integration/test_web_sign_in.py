"""Signing in and out: who is let in, what a session is worth, and when it ends."""

from datetime import timedelta

import pytest

from broker.domain.access import Role
from broker.web.access import COOKIE
from broker.web.pages.sign_in import own_path
from broker.web.security import FIELD
from tests.doors import PASSWORD, TESTER, a_browser, form_token, sign_in, signed_in
from tests.integration.hospital_pages import events


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
