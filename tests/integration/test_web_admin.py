"""The page of the admin: accounts, tokens and the trail."""

import csv
import html
import io
import re
from datetime import timedelta

from fastapi.testclient import TestClient

from broker.domain.access import Role
from broker.web.security import FIELD
from tests.doors import PASSWORD, a_browser, form_token, sign_in, signed_in
from tests.integration.hospital_pages import events


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
