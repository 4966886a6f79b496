"""The ledger finds eight of eight planted bugs, and nothing where none is planted."""

import pytest

from tests.attacks.ledger import SCENARIOS, run
from tests.attacks.planted_bugs import BUGS

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(600)]


def test_there_are_eight_planted_bugs_and_each_has_its_scenario():
    assert SCENARIOS.keys() == BUGS.keys()
    assert len(BUGS) == 8


@pytest.mark.parametrize(
    "scenario", dict.fromkeys(SCENARIOS.values()), ids=lambda scenario: scenario.__name__
)
def test_nothing_is_found_where_no_bug_is_planted(scenario, tmp_path):
    assert run(scenario, None, seed=1, long=False, folder=tmp_path / "b") == []


@pytest.mark.parametrize("bug", SCENARIOS)
def test_the_ledger_finds_the_planted_bug(bug, tmp_path):
    assert run(SCENARIOS[bug], bug, seed=1, long=False, folder=tmp_path / "b")
