"""A RIS and what it has sent, a ward that owes deliveries, and routes: on a real database, new for each test."""

from __future__ import annotations

import pytest

from broker.dicom.objects.header import known_keyword
from broker.domain.orders import OrderAction as A
from broker.domain.rules import compile_routes
from broker.workflow.routing import RoutingPolicy
from broker.workflow.unit_of_work import UnitsOfWork
from tests.builders import NOW
from tests.ris import Ris, a_procedure, a_step, an_order
from tests.unit.workflow.delivery_ward import Ward
from tests.unit.workflow.routed_images import DESTINATIONS, ROUTES


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


@pytest.fixture
def policy_of(uow_factory: UnitsOfWork):
    def make(*routes: dict, **changes) -> RoutingPolicy:
        compiled = compile_routes(list(routes or ROUTES), known_keyword=known_keyword)
        with uow_factory() as uow:
            configuration = uow.decisions.record_configuration(
                str(len(routes)), repr(list(routes or ROUTES)), by="test", now=NOW
            )
            uow.commit()
        return RoutingPolicy(compiled, configuration, DESTINATIONS, **changes)

    return make
