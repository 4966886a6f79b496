"""An open stream of the overview ends soon after whoever opened it may look no longer; the others see on."""

import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
import uvicorn
from sqlalchemy import event

from broker.domain.access import Role
from broker.web.access import COOKIE, Who, turned_out
from broker.web.app import create_app
from broker.web.security import FIELD
from tests.doors import PASSWORD, TESTER, form_token, signed_in

SOON_S = 20.0
"""A turn takes a second, on a loaded machine longer; the browser would have been asked again after ten minutes."""


@contextmanager
def serving(app):
    bound = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=20)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        app.state.live.close()
        server.should_exit = True
        thread.join(60)
        bound.close()


class Watching:
    """Reads a stream in a thread of its own."""

    def __init__(self, address, headers):
        self.status = None
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(address, headers), daemon=True)
        self._thread.start()

    def _read(self, address, headers):
        with suppress(httpx.HTTPError):  # the server's own end; it is no end in order
            with httpx.stream("GET", f"{address}/overview/stream", headers=headers, timeout=60) as answer:
                self.status = answer.status_code
                for _ in answer.iter_text():
                    pass
            self.ended.set()


@pytest.fixture
def app(board):
    return create_app(replace(board, hosts=board.hosts | {"127.0.0.1"}))


def the_session(app, name):
    return {"cookie": f"{COOKIE}={signed_in(app, name).cookies[COOKIE]}"}


def test_a_stream_ends_when_its_account_is_disabled_its_role_changes_or_its_session_or_token_ends(
    app,
    board,
):
    access = board.access
    access.accounts.add("guest", Role.VIEWER, PASSWORD, by=TESTER)
    key, token = access.tokens.issue("wall", Role.VIEWER, life=timedelta(days=1), by=TESTER)
    browser = signed_in(app, "admin")
    shown = {
        "disabled": the_session(app, "viewer"),
        "role": the_session(app, "operator"),
        "signed out": {"cookie": f"{COOKIE}={browser.cookies[COOKIE]}"},
        "token": {"authorization": f"Bearer {token}"},
        "stays": the_session(app, "guest"),
    }
    with serving(app) as address:
        streams = {name: Watching(address, headers) for name, headers in shown.items()}
        until_s = time.monotonic() + SOON_S
        while app.state.live.viewers < len(shown):
            assert time.monotonic() < until_s, {name: one.status for name, one in streams.items()}
            time.sleep(0.05)
        access.accounts.disable("viewer", by=TESTER)
        access.accounts.change_role("operator", Role.VIEWER, by=TESTER)
        access.tokens.revoke(key, by=TESTER)
        browser.post("/sign-out", data={FIELD: form_token(browser.get("/account").text)})
        for name, stream in streams.items():
            if name != "stays":
                assert stream.ended.wait(SOON_S), name
        assert not streams["stays"].ended.is_set()
        assert httpx.get(f"{address}/overview/live", headers=shown["disabled"], timeout=60).status_code in {
            303,
            401,
        }


def test_fifty_viewers_are_asked_for_by_two_questions(app, board, sqlite_engine):
    sessions = [the_session(app, name)["cookie"].partition("=")[2] for name in ("viewer", "admin") * 5]
    everybody = set()
    for number in range(50):
        session = board.access.sign_in.session(sessions[number % len(sessions)])
        everybody.add(Who(session.name, session.role, f"192.0.2.{number}", session=session))
    key, _ = board.access.tokens.issue("wall", Role.VIEWER, life=timedelta(days=1), by=TESTER)
    everybody.add(Who("wall (token)", Role.VIEWER, "192.0.2.99", token_id=key))
    asked = []

    def count(_connection, _cursor, statement, *_):
        asked.append(statement)

    event.listen(sqlite_engine, "before_cursor_execute", count)
    try:
        assert turned_out(board.access, everybody) == set()
    finally:
        event.remove(sqlite_engine, "before_cursor_execute", count)
    assert len([one for one in asked if one.startswith("SELECT")]) == 2


def test_a_session_nobody_uses_and_a_token_past_its_day_are_out(app, board, clock):
    token = the_session(app, "viewer")["cookie"].partition("=")[2]
    session = board.access.sign_in.session(token)
    sitting = Who(session.name, session.role, "192.0.2.1", session=session)
    key, _ = board.access.tokens.issue("wall", Role.VIEWER, life=timedelta(minutes=10), by=TESTER)
    program = Who("wall (token)", Role.VIEWER, "192.0.2.2", token_id=key)
    clock.advance(9 * 60)
    assert turned_out(board.access, {sitting, program}) == set()
    clock.advance(2 * 60)
    assert turned_out(board.access, {sitting, program}) == {program}
    clock.advance(5 * 60)
    assert turned_out(board.access, {sitting, program}) == {sitting, program}
