"""The configuration's pages and their JSON twin: what they show, what they refuse, and that they change one file."""

import re
from dataclasses import replace
from datetime import timedelta
from html import unescape

import pytest
from fastapi.testclient import TestClient

from broker.bootstrap import check_site
from broker.configuration import SiteFileHere
from broker.db.reports import SqlReports
from broker.domain.access import Role
from broker.domain.alerts import Severity
from broker.web.app import create_app
from broker.web.security import FIELD
from broker.workflow.alert_conditions import CERTIFICATE_STEPS, Certificate
from broker.workflow.certificate_days import standings
from broker.workflow.configuration import ConfigurationKeeper, digest
from tests.builders import NOW
from tests.doors import TESTER, form_token, signed_in

ONE = 'site: { name: "One <script>alert(1)</script>" }\ndevices:\n- { ae_title: CT1, contact: "ann@ward" }\n'
TWO = ONE.replace("One", "Two \u202eevil").replace("ann@", "bob@")
HOME = "/admin/configuration"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "broker.yaml"
    file.write_text(ONE)
    return file


@pytest.fixture
def keeper(sqlite_engine, sqlite_uow_factory, clock, path, tmp_path):
    here = SiteFileHere(path, tmp_path, check_site)
    found = ConfigurationKeeper(sqlite_uow_factory, SqlReports(sqlite_engine), here, clock)
    found.take_up(digest(ONE), ONE)
    return found


@pytest.fixture
def app(board, keeper):
    certificates = [
        Certificate("listen.web.tls.certificate", NOW + timedelta(days=6)),
        Certificate("destinations.a.ca", None, "No such file or directory"),
        Certificate("listen.dicom.tls.certificate", NOW + timedelta(days=300)),
    ]
    return create_app(replace(board, configuration=keeper, certificates=lambda: certificates))


@pytest.fixture
def admin(app):
    return signed_in(app, "admin")


@pytest.fixture
def program(app, board):
    _, token = board.access.tokens.issue("t", Role.ADMIN, life=timedelta(days=1), by=TESTER)
    return TestClient(app, headers={"authorization": f"Bearer {token}"})


def send(browser, path, **fields):
    return browser.post(path, data={FIELD: form_token(browser.get(HOME).text), **fields})


def hidden(text, name):
    return re.search(rf'name="{name}" value="([^"]*)"', text)[1]


def text_of(page):
    return unescape(re.sub(r"<[^>]*>", "", page))


def test_a_text_is_checked_shown_confirmed_with_a_reason_and_then_stands_in_the_file(admin, path, keeper):
    shown = send(admin, f"{HOME}/check", body=TWO.replace("\n", "\r\n"))
    assert shown.status_code == 200
    assert "<script>alert" not in shown.text
    assert "\u202e" not in text_of(shown.text)
    assert "ann@" not in shown.text
    assert "bob@" not in shown.text
    assert "devices.0.contact" in shown.text  # it differs, and that is said
    fields = {name: hidden(shown.text, name) for name in ("packed", "expected")}
    without = send(admin, HOME, **fields, reason=" ")
    assert without.status_code == 422
    assert "Say why" in without.text
    assert path.read_text() == ONE
    done = send(admin, HOME, **fields, reason="<b>night</b> shift")
    assert (done.status_code, done.headers["location"]) == (303, HOME)
    assert path.read_text() == TWO  # what was pasted, not what a page can draw of it
    home = text_of(admin.get(HOME).text)
    assert "Version 2 stands in the site file since" in home
    assert "applied by admin: <b>night</b> shift" in home
    keeper.take_up(digest(TWO), TWO)
    assert "in force · Version 2 since" in text_of(admin.get(HOME).text)


def test_a_site_file_of_a_large_hospital_goes_through_the_page(admin, path):
    devices = "".join(f"- {{ ae_title: CT{n}, contact: {'ä' * 200} }}\n" for n in range(2, 400))
    large = ONE + devices
    assert 128 * 1024 < len(large.encode()) < 256 * 1024
    shown = send(admin, f"{HOME}/check", body=large)
    assert shown.status_code == 200, text_of(shown.text)[:2000]
    fields = {name: hidden(shown.text, name) for name in ("packed", "expected")}
    assert send(admin, HOME, **fields, reason="all of them").status_code == 303
    assert path.read_text() == large


def test_a_text_with_problems_is_kept_for_mending_and_each_problem_has_its_line(admin, path):
    shown = send(admin, f"{HOME}/check", body="site:\n  nam: </textarea><script>\n")
    assert shown.status_code == 422
    assert f"{path}:2:3: site.nam: is not a known key" in shown.text
    assert "</textarea><script>" not in shown.text
    assert "nam: &lt;/textarea&gt;&lt;script&gt;" in shown.text
    assert path.read_text() == ONE


def test_a_file_that_was_changed_since_it_was_shown_is_not_overwritten(admin, path):
    shown = send(admin, f"{HOME}/check", body=TWO).text
    path.write_text("site: { name: Saved }\n")
    refused = send(
        admin, HOME, packed=hidden(shown, "packed"), expected=hidden(shown, "expected"), reason="why not"
    )
    assert refused.status_code == 409
    assert "changed since you looked" in refused.text
    assert 'value="why not"' in refused.text
    assert path.read_text() == "site: { name: Saved }\n"
    # The page shows what would change now; confirmed again, it does.
    again = send(
        admin,
        HOME,
        packed=hidden(refused.text, "packed"),
        expected=hidden(refused.text, "expected"),
        reason="why not",
    )
    assert again.status_code == 303
    assert path.read_text() == TWO


def test_an_older_version_is_put_back_from_its_page(admin, path, keeper):
    keeper.apply(TWO, reason="x", by=TESTER)
    shown = admin.get(f"{HOME}/1").text
    assert "Put version 1 back" in shown
    refused = send(admin, f"{HOME}/1/rollback", expected="0" * 64, reason="again")
    assert refused.status_code == 409
    done = send(admin, f"{HOME}/1/rollback", expected=hidden(shown, "expected"), reason="again")
    assert done.status_code == 303
    assert path.read_text() == ONE
    assert "rolled back" in admin.get(HOME).text


def test_a_broken_file_is_said_and_leads_to_the_version_in_force(admin, path):
    path.write_text("oops: [")
    home = admin.get(HOME).text
    assert "The site file has problems" in home
    assert 'href="/admin/configuration/1">Put version 1 back' in home
    assert "cannot" not in admin.get(f"{HOME}/1").text.partition("Put version 1 back")[0].partition("h1")[0]
    assert send(admin, f"{HOME}/1/rollback", expected=digest("oops: ["), reason="b").status_code == 303
    # The broken text is kept, and its page says why it cannot be shown.
    kept = admin.get(f"{HOME}/2")
    assert kept.status_code == 200
    assert "It cannot be shown" in kept.text


def test_any_two_versions_are_compared(admin, keeper):
    keeper.apply(TWO, reason="x", by=TESTER)
    page = admin.get(f"{HOME}/diff?before=1&after=2").text
    assert page.count("<del>") == page.count("<ins>") == 1
    assert "Nothing differs" in admin.get(f"{HOME}/diff?before=2&after=file").text
    assert admin.get(f"{HOME}/diff?before=nine&after=file").status_code == 422
    assert admin.get(f"{HOME}/diff?before=99&after=file").status_code == 404


def test_where_the_file_cannot_be_written_the_page_says_what_to_type(admin, keeper, monkeypatch):
    keeper.apply(TWO, reason="x", by=TESTER)
    monkeypatch.setattr("broker.files.replaceable.os.access", lambda *_: False)
    page = admin.get(f"{HOME}/1").text
    assert "read only" in page
    assert "broker config rollback 1 --reason" in page
    assert "Put version 1 back" not in page
    assert send(admin, f"{HOME}/1/rollback", reason="x").status_code == 409


def test_reloading_where_nobody_serves_is_refused(admin):
    refused = send(admin, f"{HOME}/reload")
    assert refused.status_code == 409
    assert "restart each of them" in refused.text


def test_programs_check_apply_compare_and_roll_back(program, path):
    standing = program.get("/api/configuration").json()
    assert (standing["version"], standing["in_force"]["version"]) == (1, 1)
    trial = program.post("/api/configuration/check", json={"body": TWO}).json()
    assert trial["expected"] == standing["sha256"]
    assert trial["difference"]["hidden"] == ["devices.0.contact"]
    bad = program.post("/api/configuration/check", json={"body": "x: 1"}).json()
    assert bad["problems"] == [f"{path}:1:1: x: is not a known key"]
    wanted = {"body": TWO, "reason": "two", "expected_sha256": "0" * 64}
    assert program.post("/api/configuration", json=wanted).status_code == 409
    assert path.read_text() == ONE
    made = program.post("/api/configuration", json=wanted | {"expected_sha256": standing["sha256"]})
    assert (made.status_code, made.json()["version"], made.json()["sha256"]) == (201, 2, digest(TWO))
    text = program.get("/api/configuration/versions/2").json()["text"]
    assert "Two" in text
    assert "bob@" not in text
    rows = program.get("/api/configuration/diff?before=1&after=2").json()["rows"]
    assert [row["side"] for row in rows if row["side"] != "same"] == ["changed"]
    back = program.post("/api/configuration/versions/1/rollback", json={"reason": "one"})
    assert (back.status_code, path.read_text()) == (201, ONE)
    history = program.get("/api/configuration/history").json()
    assert [(line["version"], line["how"], line["reason"]) for line in history] == [
        (1, "rolled back", "one"),
        (2, "applied", "two"),
        (1, "found", ""),
    ]
    assert [line["version"] for line in program.get("/api/configuration/history?after=2").json()] == [1]
    assert program.post("/api/configuration/reload").status_code == 409
    problem = program.post("/api/configuration", json={"body": "x: 1", "reason": "x"})
    assert (problem.status_code, "is not a known key" in problem.json()["detail"]) == (422, True)


def test_certificates_stand_with_their_days_left_those_in_trouble_first(admin, program):
    page = admin.get("/admin/certificates").text
    places = [page.index(name) for name in ("destinations.a.ca", "listen.web.tls", "listen.dicom.tls")]
    assert places == sorted(places)
    assert "No such file or directory" in page
    lines = [(one["word"], one["days"], one["meaning"]) for one in program.get("/api/certificates").json()]
    assert lines == [("cannot be read", None, "failing"), ("ends soon", 6, "attention"), ("good", 300, "ok")]


@pytest.mark.parametrize(("span", "severity"), CERTIFICATE_STEPS)
def test_a_certificate_looks_as_grave_as_its_alert(span, severity):
    (one,) = standings([Certificate("c", NOW + span)], now=NOW)
    grave = {Severity.CRITICAL: "failing", Severity.WARNING: "attention", Severity.NOTICE: "waiting"}
    assert one.meaning == grave[severity]
    (over,) = standings([Certificate("c", NOW - timedelta(seconds=1))], now=NOW)
    assert (over.word, over.meaning) == ("has ended", "failing")


def test_every_part_of_admin_leads_to_every_other(admin):
    places = ("/admin", "/admin/audit", HOME, "/admin/certificates")
    for place in places:
        page = admin.get(place).text
        assert f'href="{place}" aria-current="page"' in page
        assert all(f'<a href="{other}"' in page for other in (*places, "/admin/captures"))
