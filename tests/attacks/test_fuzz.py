"""Generated input finds nothing new, and nothing old again."""

from __future__ import annotations

import os
import random

import pytest
import structlog

from tests.attacks import fuzz
from tests.attacks.fuzz_engine import attempt, watched


@pytest.fixture
def quiet():
    """What hostile input makes us log is not looked at here, and must not cost the time of a terminal."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(wrapper_class=before)


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return fuzz.targets_of(set(fuzz.SHARES), tmp_path_factory.mktemp("fuzz"))


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_no_generated_input_breaks_a_parser(tmp_path):
    seed = 7 if os.environ.get("CI") == "true" else random.SystemRandom().randrange(1_000_000)
    outcomes = list(fuzz.attack(seed, False, tmp_path))
    assert not [outcome.detail for outcome in outcomes if not outcome.held], f"seed {seed}"
    assert sum(outcome.cases for outcome in outcomes) >= 15_000


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", fuzz.findings(), ids=lambda path: path.stem)
def test_what_was_found_once_stays_mended(path, targets):
    name, data = fuzz.replayed(path)
    with watched():
        assert attempt(targets[name], data) is None
