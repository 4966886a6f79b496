"""A sick or hostile HL7 peer harms nobody but itself."""

from __future__ import annotations

import pytest

from tests.attacks import mllp


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_attack_on_the_hl7_port_ends_in_order(tmp_path):
    outcomes = list(mllp.attack(1, False, tmp_path))
    assert not [outcome.line() for outcome in outcomes if not outcome.held]
    assert len(outcomes) == len(mllp.ATTACKS) + 2
