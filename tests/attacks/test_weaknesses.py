"""The measured weaknesses of a bare pynetdicom AE: closed in the broker, and shown on the bare AE where that is quick."""

import pytest

from tests.attacks.weaknesses import WEAKNESSES, bare, ours

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
QUICKLY_SHOWN = [
    one for one in WEAKNESSES if one.run.__name__ in ("four_gib_p_data", "hostile_uids", "strangers")
]


@pytest.fixture(scope="module")
def strike(tmp_path_factory):
    with ours(tmp_path_factory.mktemp("attacked"), long=False) as strike_ours:
        yield strike_ours


@pytest.mark.parametrize("weakness", WEAKNESSES, ids=lambda one: f"{one.names} {one.run.__name__}")
def test_the_broker_holds(strike, weakness):
    verdict = strike(weakness)
    assert verdict.seen.held, verdict.seen.said
    assert not verdict.broken


@pytest.mark.parametrize("weakness", QUICKLY_SHOWN, ids=lambda one: f"{one.names} {one.run.__name__}")
def test_a_bare_ae_does_not_hold(weakness, tmp_path):
    assert not bare(weakness, tmp_path / "bare").held
