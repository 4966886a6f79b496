"""The short campaign: every failpoint kills once, everything a broker leans on is broken once, the books balance."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.attacks.campaign import attack

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.postgres, pytest.mark.timeout(1500)]


@pytest.fixture
def folder():
    """A short path: a Valkey socket lives in it."""
    path = Path(tempfile.mkdtemp(prefix="siege-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_whatever_breaks_under_load_nothing_acknowledged_is_lost_and_the_broker_serves_again(folder):
    outcomes = []
    for outcome in attack(1, False, folder):
        print(outcome.line())
        outcomes.append(outcome)
    assert [outcome.line() for outcome in outcomes if not outcome.held] == []
    assert sum(outcome.cases for outcome in outcomes) >= 60
