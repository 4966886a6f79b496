"""Some calls of each flow fail once, and nothing comes of it; where a bug is planted, something does."""

import pytest

from broker.db import engine as database
from broker.db.transaction import Transaction
from broker.errors import BrokerError
from broker.files.disk import LocalDisk
from tests.attacks.calls import quiet_pool, run
from tests.attacks.calls_site import FLOWS
from tests.attacks.sim_world import template
from tests.attacks.simulation import quiet

BY_NAME = {flow.name: flow for flow in FLOWS}


@pytest.fixture(autouse=True)
def _quiet():
    with quiet(), quiet_pool():
        yield


@pytest.mark.parametrize("name", BY_NAME)
def test_a_call_that_fails_once_loses_nothing_and_makes_nobody_say_what_is_not_so(name, tmp_path):
    cases, broken = run(BY_NAME[name], template(tmp_path), stride=11)
    assert broken == []
    assert cases >= 3


def _a_commit_whose_error_is_swallowed(monkeypatch):
    commit = Transaction.commit

    def careless(self):
        try:
            commit(self)
        except BrokerError:
            return

    monkeypatch.setattr(Transaction, "commit", careless)


def _a_name_whose_error_is_swallowed(monkeypatch):
    link = LocalDisk.link

    def careless(self, source, target):
        try:
            link(self, source, target)
        except OSError:
            return

    monkeypatch.setattr(LocalDisk, "link", careless)


def _a_transaction_left_open(monkeypatch):
    monkeypatch.setattr(database, "_end_sqlite", lambda *_: None)


def _a_file_left_open(monkeypatch):
    monkeypatch.setattr(LocalDisk, "close", lambda *_: None)


@pytest.mark.parametrize(
    ("plant", "flow", "found"),
    [
        (_a_commit_whose_error_is_swallowed, "order, new", "said yes, and it is not so"),
        (_a_name_whose_error_is_swallowed, "C-STORE, new", "said yes, and it is not so"),
        (_a_transaction_left_open, "MPPS N-CREATE", "not taken when it comes again"),
        (_a_file_left_open, "C-STORE, new", "descriptors left open"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_planted_bug_is_found(plant, flow, found, monkeypatch, tmp_path):
    plant(monkeypatch)
    _, broken = run(BY_NAME[flow], template(tmp_path), enough=1)
    assert any(found in one for one in broken)
