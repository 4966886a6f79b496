"""How a message that must be refused is sent."""

from __future__ import annotations

import pytest


def refused(ris, kind, *orders, **options):
    """Send, expect a refusal, and see that nothing at all has changed."""
    before = ris.snapshot()
    with pytest.raises(kind) as problem:
        ris.send(*orders, **options)
    assert ris.snapshot() == before
    return problem.value
