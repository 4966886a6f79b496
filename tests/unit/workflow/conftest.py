"""A RIS and what it has sent, and a ward that owes deliveries: on a real database, new for each test."""

from __future__ import annotations

import pytest

from broker.domain.orders import OrderAction as A
from tests.ris import Ris, a_procedure, a_step, an_order
from tests.unit.workflow.delivery_ward import Ward


@pytest.fixture
def ris(sqlite_engine):
    return Ris(sqlite_engine)


@pytest.fixture
def two_steps(ris):
    """An order with two steps of one procedure."""
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step("S1"), a_step("S2"))))
    return ris


@pytest.fixture
def ward(sqlite_uow_factory, clock, queue):
    return Ward(sqlite_uow_factory, clock, queue)
