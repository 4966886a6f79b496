"""The first account: made with the token of the log, once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from broker.web.app import create_app
from broker.web.security import FIELD
from tests.doors import PASSWORD, a_browser, an_access, form_token
from tests.integration.hospital_pages import events


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
