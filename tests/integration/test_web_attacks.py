"""The door under attack, route by route: foreign sites, strange paths, hostile hosts and headers."""

import re

import pytest

from broker.web.access import served_routes
from broker.web.security import FIELD, HEADER
from tests.doors import a_browser, signed_in
from tests.integration.hospital_pages import events, fill

SAFE = {"GET", "HEAD", "OPTIONS"}


def test_no_form_of_another_site_is_taken_by_any_route(app, board, hospital):
    browser = signed_in(app, "admin")
    browser.cookies.set("broker_csrf", "x" * 43)
    before = len(board.access.reports.accounts())
    asked = 0
    for route in served_routes(app):
        for method in route.methods - SAFE:
            for sent in ({}, {FIELD: ""}, {FIELD: "x" * 43}):
                answer = browser.request(method, fill(route.path), data=sent)
                # A program's body is JSON: a form is refused before anybody looks at its token.
                refused = 415 if sent and route.path.startswith("/api/") else 403
                assert answer.status_code == refused, (method, route.path, sent, answer.status_code)
            planted = browser.request(method, fill(route.path), json={}, headers={HEADER: "x" * 43})
            assert planted.status_code == 403, route.path
            for headers in (
                {"origin": "https://evil.example"},
                {"sec-fetch-site": "cross-site"},
                {"origin": "null"},
            ):
                assert browser.request(method, fill(route.path), headers=headers).status_code == 403
            asked += 1
    assert asked > 40
    assert len(board.access.reports.accounts()) == before
    assert not events(board, "delivery retried by a person")


def test_every_answer_of_every_route_forbids_framing_sniffing_and_keeping(app):
    app.state.live.close()
    browser = signed_in(app, "admin", raise_server_exceptions=False)
    for route in served_routes(app):
        if "GET" in route.methods:
            headers = browser.get(fill(route.path)).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"], route.path
            assert "unsafe" not in headers["content-security-policy"], route.path
            assert headers["x-content-type-options"] == "nosniff", route.path
            assert "no-store" in headers["cache-control"] or "private" in headers["cache-control"], route.path
            assert headers["referrer-policy"] == "same-origin", route.path
            assert headers["cross-origin-resource-policy"] == "same-origin", route.path


STRANGE = (
    "..%2F..%2Fetc%2Fpasswd", "%2e%2e", "%00", "a%00b", "%0d%0aSet-Cookie:x", "'%20OR%201=1--", "%F0%9F%92%A9",
    "9" * 400, "-1", "1e5", "%C0%AE", "{{7*7}}", "%3Cscript%3Ealert(1)%3C/script%3E", "%E2%80%AEgnp",
)  # fmt: skip


def test_strange_ids_are_refused_or_not_found_and_never_a_defect(app):
    app.state.live.close()
    browser = signed_in(app, "admin", raise_server_exceptions=False)
    paths = {route.path for route in served_routes(app) if "GET" in route.methods and "{" in route.path}
    for path in sorted(paths):
        for strange in STRANGE:
            answer = browser.get(re.sub(r"{[^}]+}", lambda _, text=strange: text, path))
            assert answer.status_code in {200, 303, 307, 404, 409, 422}, (path, strange, answer.status_code)
            assert "x" not in answer.cookies
            assert "root:" not in answer.text
            if answer.headers.get("content-type", "").startswith("text/html"):
                assert "<script>alert" not in answer.text, path
                assert "\u202e" not in answer.text, path
                assert ">49" not in answer.text, path


@pytest.mark.parametrize(
    "header", ["x-forwarded-host", "x-original-url", "x-rewrite-url", "x-http-method-override"]
)
def test_headers_that_other_servers_believe_change_nothing(app, hospital, header):
    browser = signed_in(app, "viewer")
    plain = browser.get("/deliveries", headers={"accept": "text/html"})
    told = browser.get("/deliveries", headers={"accept": "text/html", header: "/admin"})
    assert told.status_code == plain.status_code == 200
    assert "evil" not in browser.get("/nope", headers={"host": "testserver", header: "evil.example"}).text


def test_no_answer_names_a_host_that_was_only_said(app):
    answer = a_browser(app).get("/deliveries", headers={"x-forwarded-host": "evil.example"})
    assert answer.headers["location"].startswith("/sign-in")
