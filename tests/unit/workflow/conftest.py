"""A RIS and what it has sent: orders on a real database, new for each test."""

from __future__ import annotations

import pytest

from broker.domain.orders import OrderAction as A
from tests.ris import Ris, a_procedure, a_step, an_order


@pytest.fixture
def ris(sqlite_engine):
    return Ris(sqlite_engine)


@pytest.fixture
def two_steps(ris):
    """An order with two steps of one procedure."""
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step("S1"), a_step("S2"))))
    return ris
