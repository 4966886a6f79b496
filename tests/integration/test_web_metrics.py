"""Who may read `/metrics`."""

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.access import Role
from broker.settings import Site
from broker.web.app import create_app
from tests.doors import TESTER, a_browser


def test_metrics_want_a_token_unless_the_site_opens_them(board):
    board = replace(board, metrics=lambda: b"worklist_broker_info 1.0\n")
    _, token = board.access.tokens.issue("prometheus", Role.VIEWER, life=timedelta(days=1), by=TESTER)
    program = a_browser(create_app(board), headers={"accept": "text/plain"})
    assert program.get("/metrics").status_code == 401
    answer = program.get("/metrics", headers={"authorization": f"Bearer {token}"})
    assert answer.text == "worklist_broker_info 1.0\n"
    assert answer.headers["content-type"].startswith("text/plain; version=")
    opened = a_browser(create_app(replace(board, metrics_open=True)))
    assert opened.get("/metrics").status_code == 200


def test_metrics_are_open_on_loopback_only():
    beyond = {"web": {"host": "0.0.0.0", "behind_proxy": {"trusted": ["10.0.0.1"]}}}
    Site.model_validate({"metrics": {"open": True}})
    with pytest.raises(ValueError, match=r"metrics\.open"):
        Site.model_validate({"metrics": {"open": True}, "listen": beyond})
