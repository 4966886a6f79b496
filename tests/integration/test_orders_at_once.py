"""Messages about one order from several connections at once: the database serialises them, nothing is doubled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from broker.domain.orders import OrderAction, PlaceOrders
from broker.domain.steps import OrderStatus, StepStatus
from broker.errors import RecordLocked
from broker.workflow.orders import place_orders
from tests.ris import HAYDN, Ris, a_procedure, a_status, a_step, an_order

CONNECTIONS = 4


def at_once(ris, requests):
    """Apply every request in a transaction of its own, all at the same time."""

    def apply(request):
        with ris.units() as uow:
            done = place_orders(request, uow, clock=ris.clock, encoder=ris.encoder, policy=ris.policy)
            uow.commit()
            return done

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(apply, requests))


def test_the_same_order_from_several_connections_is_one_order(engine):
    ris = Ris(engine)
    requests = [PlaceOrders(ris.source(), HAYDN, (an_order(),)) for _ in range(CONNECTIONS * 3)]
    done = at_once(ris, requests)
    assert sum(len(placed.created) for placed in done) == 1
    assert len(ris.orders()) == 1
    assert ris.statuses() == {"S1": "SCHEDULED"}


def test_changes_from_several_connections_are_all_kept(engine):
    ris = Ris(engine)
    ris.send()
    requests = [
        PlaceOrders(ris.source(), HAYDN, (an_order(OrderAction.CHANGE, "XO", changes={f"Comment{n}": "x"}),))
        for n in range(CONNECTIONS * 3)
    ]
    at_once(ris, requests)
    kept = ris.entry().order.attributes
    assert {f"Comment{n}" for n in range(CONNECTIONS * 3)} <= set(kept)


def test_steps_of_one_order_from_several_connections_are_all_there(engine):
    ris = Ris(engine)
    requests = [
        PlaceOrders(
            ris.source(),
            HAYDN,
            (an_order(OrderAction.PLACE, "NW", a_procedure("RP1", None, a_step(f"S{n}"))),),
        )
        for n in range(CONNECTIONS * 2)
    ]
    at_once(ris, requests)
    assert set(ris.statuses()) == {f"S{n}" for n in range(CONNECTIONS * 2)}
    assert len({entry.procedure.id for entry in ris.entries()}) == 1


def while_a_scanner_begins(ris, message):
    """Let a message come in after a scanner's report was written and before it is committed."""
    entry = ris.entry()
    begun = replace(
        entry, step=replace(entry.step, status=StepStatus.STARTED, previous_status=StepStatus.SCHEDULED)
    )
    with ThreadPoolExecutor(1) as pool, ris.units() as uow:
        uow.lock(f"order:{entry.order.id}")
        uow.steps.save(begun, elements=ris.encoder.encode(begun), now=ris.clock.now())
        uow.orders.set_status(entry.order.id, OrderStatus.IN_PROGRESS, now=ris.clock.now())
        waiting = pool.submit(message)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        uow.commit()
        return waiting.result(timeout=20)


def test_a_patient_update_does_not_undo_what_a_scanner_reports_meanwhile(engine):
    ris = Ris(engine)
    ris.send()
    while_a_scanner_begins(ris, lambda: ris.update(replace(HAYDN, changes={"PatientSex": "O"})))
    assert ris.statuses() == {"S1": "STARTED"}
    assert ris.entry().patient.sex == "O"


def test_an_order_change_does_not_undo_what_a_scanner_reports_meanwhile(engine):
    ris = Ris(engine)
    ris.send()
    change = an_order(OrderAction.CHANGE, "XO", changes={"RequestingPhysician": "NEW^NAME"})
    while_a_scanner_begins(ris, lambda: ris.send(change))
    assert ris.statuses() == {"S1": "STARTED"}
    assert ris.entry().order.status is OrderStatus.IN_PROGRESS
    assert ris.entry().order.attributes["RequestingPhysician"] == "NEW^NAME"


def test_a_cancellation_meets_the_scanner_that_begins_meanwhile(engine):
    ris = Ris(engine)
    ris.send()
    with pytest.raises(RecordLocked):
        while_a_scanner_begins(ris, lambda: ris.send(a_status(OrderAction.CANCEL, "CA")))
    assert ris.statuses() == {"S1": "STARTED"}
