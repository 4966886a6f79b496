"""What an operator may do to a delivery. Every act is an event that says who did it and why.

Doing the same twice changes nothing the second time; what the state does not allow raises IllegalTransition
and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from broker.domain.delivery import DeliveryEvent, DeliveryState, Priority, advance_delivery
from broker.domain.events import Event, EventName, Subject
from broker.errors import Conflict, IllegalTransition, InvalidValue
from broker.workflow.clock import Clock
from broker.workflow.deliveries_port import Delivery
from broker.workflow.destination_health import ask_again_now
from broker.workflow.idempotency import RequestKey, is_repeat
from broker.workflow.sending import Detail, record_move
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork
from broker.workflow.wake_ups import Task, WakeUp

_S = DeliveryState


class Act(Enum):
    """What a person may do to deliveries, one or many."""

    RETRY = "retry"
    """Send what is not delivered now."""
    CANCEL = "cancel"
    """Do not send it; what was delivered stays so, images are kept."""
    RELEASE = "release"
    """Send what has been collected so far, without waiting for the quiet period to end."""
    RETARGET = "retarget"
    """Send what is not delivered to another destination instead."""
    PRIORITY = "priority"
    """Let it go before others, or after them."""


ALLOWED: Mapping[Act, tuple[DeliveryState, ...]] = {
    Act.RETRY: (_S.PENDING, _S.DEAD, _S.CANCELLED),
    Act.CANCEL: (_S.COLLECTING, _S.PENDING, _S.DEAD),
    Act.RELEASE: (_S.COLLECTING,),
    Act.RETARGET: (_S.COLLECTING, _S.PENDING, _S.DEAD),
    Act.PRIORITY: (_S.COLLECTING, _S.PENDING, _S.IN_PROGRESS),
}
"""States in which an act changes something; in all others it is refused."""


@dataclass(frozen=True, slots=True)
class Target:
    """Another destination to send to."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, by whom and why."""

    act: Act
    actor: str
    reason: str | None = None
    target: Target | None = None
    priority: Priority = Priority.ROUTINE
    operation: int | None = None
    """The bulk operation it is part of."""
    key: RequestKey | None = field(default=None, compare=False)


def takes(kind: str, delivery: Delivery) -> bool:
    """Answer whether a kind of destination can take what this delivery carries.

    Messages go to receivers of messages. Images go to whatever keeps them; on film only what was meant for film,
    for a study of two thousand slices is not.
    """
    return takes_kind(kind, delivery.kind)


def takes_kind(kind: str, meant_for: str) -> bool:
    """Answer whether a kind of destination can take what was meant for another kind."""
    if kind == meant_for:
        return True
    return "mllp" not in (kind, meant_for) and kind != "print"


def act_on(delivery_id: int, asked: Asked, units_of_work: UnitsOfWork, clock: Clock) -> bool:
    """Do an act to one delivery; False when nothing was to be changed, or the same request came before.

    Raises NotFound, IllegalTransition, Conflict or InvalidValue, and nothing has changed.
    """
    with units_of_work() as uow:
        now = clock.now()
        if is_repeat(uow, asked.key, now=now):
            return False
        changed = act_in(uow, uow.deliveries.get(delivery_id), asked, now=now)
        if changed or asked.key is not None:  # a repeat must find the key, and not be done when it could be
            uow.commit()
        return changed


def act_in(uow: UnitOfWork, delivery: Delivery, asked: Asked, *, now: datetime) -> bool:
    """Do an act within a transaction; the caller commits. What it raises, it raises before it writes."""
    match asked.act:
        case Act.RETRY:
            return _retry(uow, delivery, asked, now)
        case Act.CANCEL:
            return _cancel(uow, delivery, asked, now)
        case Act.RELEASE:
            return _release(uow, delivery, asked, now)
        case Act.RETARGET:
            return _retarget(uow, delivery, asked, now)
        case Act.PRIORITY:
            return _prioritise(uow, delivery, asked)


def retry(delivery_id: int, units_of_work: UnitsOfWork, clock: Clock, *, actor: str) -> bool:
    """Send a delivery now: a dead or cancelled one again, or one that waits. Delivered items are not sent again."""
    return act_on(delivery_id, Asked(Act.RETRY, actor), units_of_work, clock)


def cancel(delivery_id: int, units_of_work: UnitsOfWork, clock: Clock, *, actor: str) -> bool:
    """Decide that a delivery is not sent. What was delivered stays so."""
    return act_on(delivery_id, Asked(Act.CANCEL, actor), units_of_work, clock)


def release(delivery_id: int, units_of_work: UnitsOfWork, clock: Clock, *, actor: str) -> bool:
    """Send what has been collected so far, without waiting for the quiet period to end."""
    return act_on(delivery_id, Asked(Act.RELEASE, actor), units_of_work, clock)


def _retry(uow: UnitOfWork, delivery: Delivery, asked: Asked, now: datetime) -> bool:
    target = advance_delivery(delivery.state, DeliveryEvent.RETRIED)
    if delivery.state is _S.PENDING and delivery.due_at <= now:
        return False
    if delivery.state is not _S.PENDING:
        _refuse_second_open(uow, delivery)
    ask_again_now(uow, delivery.destination, now=now)
    _move(uow, delivery, target, asked, now, reason=delivery.reason, failures=0)
    if delivery.state is not _S.PENDING:
        uow.deliveries.reopen_items(delivery.id)
    _record(uow, delivery, EventName.DELIVERY_RETRIED, asked)
    _wake(uow, delivery)
    return True


def _cancel(uow: UnitOfWork, delivery: Delivery, asked: Asked, now: datetime) -> bool:
    if delivery.state is _S.CANCELLED:
        return False
    target = advance_delivery(delivery.state, DeliveryEvent.CANCELLED)
    why = f": {asked.reason}" if asked.reason else "."
    _move(uow, delivery, target, asked, now, reason=f"Cancelled by {asked.actor}{why}")
    _record(uow, delivery, EventName.DELIVERY_CANCELLED, asked)
    return True


def _release(uow: UnitOfWork, delivery: Delivery, asked: Asked, now: datetime) -> bool:
    if delivery.state is _S.PENDING:
        return False
    target = advance_delivery(delivery.state, DeliveryEvent.RELEASED)
    _move(uow, delivery, target, asked, now, reason=None)
    _record(uow, delivery, EventName.DELIVERY_RELEASED, asked)
    _wake(uow, delivery)
    return True


def _prioritise(uow: UnitOfWork, delivery: Delivery, asked: Asked) -> bool:
    if delivery.state not in ALLOWED[Act.PRIORITY]:
        raise IllegalTransition(f"A delivery that is {delivery.state.value} does not wait for its turn.")
    if delivery.priority == asked.priority:
        return False
    if not uow.deliveries.prioritise(
        delivery.id, source=delivery.state, priority=asked.priority, operation=asked.operation
    ):
        raise IllegalTransition(f"The delivery is no longer {delivery.state.value}.")
    more: dict[str, Detail] = {"before": delivery.priority, "priority": int(asked.priority)}
    _record(uow, delivery, EventName.DELIVERY_PRIORITISED, asked, more)
    _wake(uow, delivery)
    return True


def _retarget(uow: UnitOfWork, delivery: Delivery, asked: Asked, now: datetime) -> bool:
    to = asked.target
    if to is None:
        raise InvalidValue("Say which destination it is sent to instead.", field="to")
    if delivery.state not in ALLOWED[Act.RETARGET]:
        raise IllegalTransition(f"A delivery that is {delivery.state.value} cannot be sent elsewhere.")
    if to.name == delivery.destination:
        raise InvalidValue(f"It goes to {to.name} already.", field="to")
    if not takes(to.kind, delivery):
        raise InvalidValue(f"{to.name} ({to.kind}) cannot take what is for {delivery.kind}.", field="to")
    missing = uow.deliveries.undelivered(delivery.id)
    key = uow.deliveries.add(
        replace(
            delivery,
            id=0,
            destination=to.name,
            kind=to.kind,
            state=_S.PENDING,
            attempt=0,
            failures=0,
            failure_class=None,
            reason=None,
            due_at=now,
            created_at=now,
            collect_until=None,
            lease_until=None,
            worker=None,
            operation=asked.operation,
        ),
        now=now,
    )
    if missing:
        uow.deliveries.add_items(key, missing)
    target = advance_delivery(delivery.state, DeliveryEvent.CANCELLED)
    _move(
        uow,
        delivery,
        target,
        asked,
        now,
        reason=f"Sent to {to.name} instead by {asked.actor}: delivery {key}.",
    )
    _record(uow, delivery, EventName.DELIVERY_RETARGETED, asked, {"to": to.name, "instead": key})
    uow.record(
        Event(
            EventName.DELIVERY_CREATED,
            Subject.DELIVERY,
            subject_id=key,
            study_instance_uid=delivery.study_instance_uid,
            order=delivery.order,
            actor=asked.actor,
            details={
                "destination": to.name,
                "route": delivery.route,
                "unit": delivery.unit,
                "state": _S.PENDING.value,
                "reason": asked.reason,
                "instead_of": delivery.id,
            },
        )
    )
    uow.wake(WakeUp(Task.DELIVER, key, to.kind, to.name))
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
    asked: Asked,
    now: datetime,
    *,
    reason: str | None,
    failures: int | None = None,
) -> None:
    if not uow.deliveries.move(
        delivery.id,
        source=delivery.state,
        to=target,
        due_at=now,
        reason=reason,
        now=now,
        failures=failures,
        operation=asked.operation,
    ):
        raise IllegalTransition(f"The delivery is no longer {delivery.state.value}.")


def _record(
    uow: UnitOfWork,
    delivery: Delivery,
    name: EventName,
    asked: Asked,
    more: Mapping[str, Detail] | None = None,
) -> None:
    details: dict[str, Detail] = {
        "from": delivery.state.value,
        "reason": delivery.reason,
        "items": delivery.items,
        "delivered": delivery.items_delivered,
        **(more or {}),
    }
    if asked.reason:
        details["why"] = asked.reason
    if asked.operation is not None:
        details["operation"] = asked.operation
    record_move(uow, delivery, name, actor=asked.actor, details=details)


def _wake(uow: UnitOfWork, delivery: Delivery) -> None:
    uow.wake(WakeUp(Task.DELIVER, delivery.id, delivery.kind, delivery.destination))
