"""Take hold of a delivery: who may send what is decided in one transaction, under the destination's lock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from broker.domain.delivery import DeliveryState
from broker.domain.events import EventName
from broker.domain.settlement import after_expired_lease
from broker.errors import NotFound, OutOfResources
from broker.failpoints import failpoint
from broker.workflow.deliveries_port import Delivery
from broker.workflow.destination_health import lock_destination, may_send, note_misconfigured
from broker.workflow.sending import DestinationEntry, Wired, Worker, record_move
from broker.workflow.unit_of_work import UnitOfWork
from broker.workflow.wake_ups import Task, WakeUp


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery in our hands."""

    delivery: Delivery
    entry: DestinationEntry
    contexts: tuple[tuple[str, str], ...]


def claim(delivery_id: int, wired: Wired, worker: Worker) -> Claimed | None:
    """Claim a delivery if it is due and its destination takes more; None when anything of it does not hold."""
    with wired.units_of_work() as uow:
        now = wired.clock.now()
        try:
            delivery = uow.deliveries.get(delivery_id)
        except NotFound:
            return None
        if delivery.state is not DeliveryState.PENDING or delivery.due_at > now:
            return None
        name = delivery.destination
        lock_destination(uow, name)
        try:
            entry = wired.destination(name)
        except NotFound:
            reason = "The destination is not in the configuration."
            note_misconfigured(uow, name, reason, now=now, policy=worker.limits.breaker)
            uow.commit()
            return None
        if not may_send(uow.destinations.get(name)):
            return None
        # A wake-up is a hint: whatever it names, the urgent goes first.
        urgent = uow.deliveries.more_urgent(name, than=delivery.priority, now=now)
        claimed = _claim_in(uow, delivery_id if urgent is None else urgent, entry, wired, worker)
        failpoint("deliver.before_claim")
        try:
            uow.commit()
        except OutOfResources:
            if claimed is not None:  # it may be ours all the same, and nobody will send it
                worker.give_up(partial(give_back, claimed.delivery, wired))
            raise
    failpoint("deliver.after_claim")
    return claimed


def _claim_in(
    uow: UnitOfWork, delivery_id: int, entry: DestinationEntry, wired: Wired, worker: Worker
) -> Claimed | None:
    """Claim in a transaction that holds the lock of the destination; the caller commits."""
    if uow.deliveries.in_progress(entry.name) >= entry.concurrency:
        return None
    delivery = uow.deliveries.claim(
        delivery_id, worker=worker.name, now=wired.clock.now(), lease=worker.limits.lease
    )
    if delivery is None:
        return None
    record_move(
        uow,
        delivery,
        EventName.DELIVERY_CLAIMED,
        details={"attempt": delivery.attempt, "worker": worker.name},
    )
    contexts = uow.deliveries.contexts(delivery.id) if delivery.items else ()
    return Claimed(delivery, entry, contexts)


def claim_next(uow: UnitOfWork, entry: DestinationEntry, wired: Wired, worker: Worker) -> Claimed | None:
    """Claim the most urgent due delivery of a destination; the caller commits."""
    lock_destination(uow, entry.name)
    if not may_send(uow.destinations.get(entry.name)):
        return None
    due = uow.deliveries.next_due(entry.name, now=wired.clock.now(), limit=1)
    return _claim_in(uow, due[0], entry, wired, worker) if due else None


def give_back(delivery: Delivery, wired: Wired) -> None:
    """End a try whose end could not be written, as if its worker were dead. Raises OutOfResources."""
    with wired.units_of_work() as uow:
        lock_destination(uow, delivery.destination)
        if take_back(uow, delivery, wired, attempt=delivery.attempt):
            uow.wake(WakeUp(Task.DELIVER, delivery.id, delivery.kind, delivery.destination))
            uow.commit()


def take_back(
    uow: UnitOfWork,
    delivery: Delivery,
    wired: Wired,
    *,
    at: datetime | None = None,
    attempt: int | None = None,
) -> bool:
    """Take a delivery back from its worker.

    `at` is an instant at which its lease is over, if not now; `attempt` that of a worker who needs no waiting for.
    """
    now = wired.clock.now()
    settlement = after_expired_lease(retry_safe=_is_retry_safe(entry_of(wired, delivery.destination)))
    if not uow.deliveries.move(
        delivery.id,
        source=DeliveryState.IN_PROGRESS,
        to=settlement.state,
        due_at=now,
        reason=settlement.reason,
        now=at or now,
        attempt=attempt,
    ):
        return False
    record_move(
        uow,
        delivery,
        EventName.DELIVERY_LEASE_EXPIRED,
        details={
            "attempt": delivery.attempt,
            "worker": delivery.worker,
            "state": settlement.state.value,
            "reason": settlement.reason,
        },
    )
    return True


def entry_of(wired: Wired, name: str) -> DestinationEntry | None:
    """Answer a destination; None when it is no longer in the configuration."""
    try:
        return wired.destination(name)
    except NotFound:
        return None


def _is_retry_safe(entry: DestinationEntry | None) -> bool:
    # Of a destination that is gone from the configuration nobody knows: the cautious answer.
    return entry is not None and entry.plugin.retry_safe
