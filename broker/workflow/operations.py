"""What an operator may do to deliveries and destinations. Every act is an event with its actor.

Doing the same twice changes nothing the second time; what the state does not allow raises IllegalTransition
and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from broker.domain.delivery import DeliveryEvent, DeliveryState, advance_delivery
from broker.domain.events import Event, EventName, Subject
from broker.errors import Conflict, IllegalTransition
from broker.workflow.destination_health import lock_destination
from broker.workflow.ports import (
    Clock,
    Delivery,
    DestinationHealth,
    DestinationState,
    Task,
    UnitOfWork,
    UnitsOfWork,
    WakeUp,
)
from broker.workflow.sending import record_move

FIRST_WAKE_UPS = 10
"""The rest of a long queue follows by itself: each delivery that ends hands on to the next."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which deliveries an act is for."""

    state: DeliveryState
    destination: str | None = None
    study_instance_uid: str | None = None


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What came of an act on many deliveries."""

    changed: tuple[int, ...]
    skipped: tuple[int, ...]
    """Their state had moved on meanwhile, or another delivery of the same unit is open."""


Operation = Callable[..., bool]


def retry(delivery_id: int, units_of_work: UnitsOfWork, clock: Clock, *, actor: str) -> bool:
    """Send a dead delivery again, or one that waits right now. Delivered items are not sent again."""
    with units_of_work() as uow:
        delivery = uow.deliveries.get(delivery_id)
        target = advance_delivery(delivery.state, DeliveryEvent.RETRIED)
        now = clock.now()
        if delivery.state is DeliveryState.PENDING and delivery.due_at <= now:
            return False
        if delivery.state is DeliveryState.DEAD:
            _refuse_second_open(uow, delivery)
            uow.deliveries.reopen_items(delivery.id)
        _move(uow, delivery, target, clock, reason=delivery.reason, failures=0)
        record_move(uow, delivery, EventName.DELIVERY_RETRIED, actor=actor, details=_before(delivery))
        uow.wake(WakeUp(Task.DELIVER, delivery.id, delivery.kind, delivery.destination))
        uow.commit()
        return True


def cancel(delivery_id: int, units_of_work: UnitsOfWork, clock: Clock, *, actor: str) -> bool:
    """Decide that a delivery is not sent. What was delivered stays so."""
    with units_of_work() as uow:
        delivery = uow.deliveries.get(delivery_id)
        if delivery.state is DeliveryState.CANCELLED:
            return False
        target = advance_delivery(delivery.state, DeliveryEvent.CANCELLED)
        _move(uow, delivery, target, clock, reason=f"Cancelled by {actor}.")
        record_move(uow, delivery, EventName.DELIVERY_CANCELLED, actor=actor, details=_before(delivery))
        uow.commit()
        return True


def release(delivery_id: int, units_of_work: UnitsOfWork, clock: Clock, *, actor: str) -> bool:
    """Send what has been collected so far, without waiting for the quiet period to end."""
    with units_of_work() as uow:
        delivery = uow.deliveries.get(delivery_id)
        if delivery.state is DeliveryState.PENDING:
            return False
        target = advance_delivery(delivery.state, DeliveryEvent.RELEASED)
        _move(uow, delivery, target, clock, reason=None)
        record_move(uow, delivery, EventName.DELIVERY_RELEASED, actor=actor, details=_before(delivery))
        uow.wake(WakeUp(Task.DELIVER, delivery.id, delivery.kind, delivery.destination))
        uow.commit()
        return True


def for_all(
    operation: Operation,
    which: Filter,
    units_of_work: UnitsOfWork,
    clock: Clock,
    *,
    actor: str,
    limit: int = 10_000,
    page: int = 500,
) -> BulkResult:
    """Do an act to every delivery that fits, each in a transaction of its own."""
    changed, skipped, after = list[int](), list[int](), 0
    while len(changed) + len(skipped) < limit:
        with units_of_work() as uow:
            ids = uow.deliveries.find_ids(
                state=which.state,
                destination=which.destination,
                study_instance_uid=which.study_instance_uid,
                after=after,
                limit=min(page, limit - len(changed) - len(skipped)),
            )
        if not ids:
            break
        for delivery_id in ids:
            try:
                did = operation(delivery_id, units_of_work, clock, actor=actor)
            except (IllegalTransition, Conflict):
                did = False
            (changed if did else skipped).append(delivery_id)
        after = ids[-1]
    return BulkResult(tuple(changed), tuple(skipped))


def pause(name: str, units_of_work: UnitsOfWork, clock: Clock, *, actor: str, reason: str = "") -> bool:
    """Stop sending to a destination until a person resumes it; what is on its way arrives."""
    with units_of_work() as uow:
        now = clock.now()
        lock_destination(uow, name)
        state = uow.destinations.get(name) or DestinationState(name, DestinationHealth.UP, since=now)
        if state.state is DestinationHealth.PAUSED and state.open_until is None:
            return False
        said = reason or f"Paused by {actor}."
        # Without an instant to probe at, only a person ends it.
        uow.destinations.save(
            replace(state, state=DestinationHealth.PAUSED, since=now, reason=said, open_until=None)
        )
        _record(uow, EventName.DESTINATION_PAUSED, name, actor, said)
        uow.commit()
        return True


def resume(name: str, units_of_work: UnitsOfWork, clock: Clock, *, actor: str) -> bool:
    """Send to a destination again, whether a person, the breaker or a wrong setting had stopped it."""
    with units_of_work() as uow:
        now = clock.now()
        lock_destination(uow, name)
        state = uow.destinations.get(name)
        if state is None or (state.state is DestinationHealth.UP and state.open_until is None):
            return False
        uow.destinations.save(
            replace(state, state=DestinationHealth.UP, since=now, reason=None, failures=0, open_until=None)
        )
        _record(uow, EventName.DESTINATION_RESUMED, name, actor, state.reason)
        for delivery_id in uow.deliveries.next_due(name, now=now, limit=FIRST_WAKE_UPS):
            uow.wake(WakeUp(Task.DELIVER, delivery_id, uow.deliveries.get(delivery_id).kind, name))
        uow.commit()
        return True


def _refuse_second_open(uow: UnitOfWork, delivery: Delivery) -> None:
    """Two open deliveries of one unit would send everything twice."""
    if delivery.route is None:
        return
    other = uow.deliveries.open_for(
        destination=delivery.destination, route=delivery.route, unit_uid=delivery.unit_uid
    )
    if other is not None:
        raise Conflict(
            f"Delivery {other.id} of the same {delivery.unit} is still open; retry when it is done."
        )


def _move(
    uow: UnitOfWork,
    delivery: Delivery,
    target: DeliveryState,
    clock: Clock,
    *,
    reason: str | None,
    failures: int | None = None,
) -> None:
    now = clock.now()
    if not uow.deliveries.move(
        delivery.id,
        source=delivery.state,
        to=target,
        due_at=now,
        reason=reason,
        now=now,
        failures=failures,
    ):
        raise IllegalTransition(f"The delivery is no longer {delivery.state.value}.")


def _before(delivery: Delivery) -> dict[str, str | float | bool | list[str] | None]:
    return {
        "from": delivery.state.value,
        "reason": delivery.reason,
        "items": delivery.items,
        "delivered": delivery.items_delivered,
    }


def _record(uow: UnitOfWork, event: EventName, name: str, actor: str, reason: str | None) -> None:
    uow.record(
        Event(event, Subject.DESTINATION, actor=actor, details={"destination": name, "reason": reason})
    )
