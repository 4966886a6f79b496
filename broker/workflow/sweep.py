"""Find what a crash, a lost wake-up or the clock has left to do.

The sweep moves rows itself where no sending is involved; what must be sent or routed it only names, and the
caller wakes a worker for it or, while no worker can be woken, does it with the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from broker.domain.delivery import DeliveryEvent, DeliveryState, advance_delivery
from broker.domain.events import EventName
from broker.errors import NotFound
from broker.failpoints import failpoint
from broker.workflow.claims import entry_of, take_back
from broker.workflow.deliveries_port import Delivery
from broker.workflow.destination_health import (
    LONGEST_REST,
    BreakerPolicy,
    finish_probe,
    is_probe_due,
    lock_destination,
    may_send,
    take_probe,
)
from broker.workflow.destinations_port import CheckResult, DestinationHealth
from broker.workflow.holds import end_holds
from broker.workflow.lease_watch import JUMP, LeaseWatch
from broker.workflow.sending import Wired, record_move
from broker.workflow.unit_of_work import UnitOfWork
from broker.workflow.wake_ups import Task, WakeUp

ROWS_PER_COMMIT = 50
"""A long transaction would make those wait who answer a modality."""


IsGone = Callable[[str], bool]
"""Answers whether a worker of that name has ended for certain."""


def nobody_is_gone(worker: str) -> bool:
    """Know of nobody: every lease is left to its end."""
    del worker
    return False


@dataclass(frozen=True, slots=True)
class SweepLimits:
    """How much one sweep takes on."""

    rows: int = 500
    orphans: int = 64
    """Rows looked at for destinations that are no longer configured; every destination has its share."""
    routing_grace: timedelta = timedelta(seconds=2)
    """An image younger than that has just been announced to a worker."""


@dataclass(frozen=True, slots=True)
class Chore:
    """Something else that is to be done from time to time: sealing events, removing orphan files."""

    name: str
    every_s: float
    run: Callable[[], object]
    without_database: bool = False
    """Done also while the database does not answer."""
    missed_after_s: float | None = None
    """Longer not done, for a defect or because it hangs, and the sweep says that it does not serve."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a sweep has found."""

    due: tuple[WakeUp, ...] = ()
    """Deliveries that may be claimed, for each destination as many as could be sent at once."""
    unrouted: tuple[int, ...] = ()
    """Images nobody has decided about."""
    probes: tuple[str, ...] = ()
    """Destinations that were left alone long enough to be asked again."""
    collected: int = 0
    expired: int = 0
    died: int = 0


def sweep(
    wired: Wired,
    *,
    limits: SweepLimits,
    watch: LeaseWatch,
    is_gone: IsGone = nobody_is_gone,
    thorough: bool = False,
) -> Work:
    """Close quiet periods, take back the leases of lost workers, and answer what there is to do.

    A lease is taken back when the `watch` has seen nobody renew it, or at once when `is_gone` knows that its holder
    is dead. A `thorough` sweep also looks for what no live destination will ever ask for.
    """
    failpoint("sweep.before")
    watch.look(wired.clock)
    if watch.doubts_waits:
        _mend_waits(wired, limits)
        watch.doubts_waits = False
    collected = _collect(wired, limits)
    expired = _take_back(wired, limits, watch, is_gone)
    failpoint("sweep.after_take_back")
    died = _bury(wired, limits) if thorough else 0
    end_holds(wired.units_of_work, wired.clock)
    with wired.units_of_work() as uow:
        now = wired.clock.now()
        due = [wake_up for name in wired.destination_names() for wake_up in _due(uow, name, wired)]
        if thorough:
            due += _orphaned(uow, wired, limits)
        # By a clock that was set back, what came before would be young for as long as it was set back.
        announced_by = None if thorough else now - limits.routing_grace
        return Work(
            due=tuple(due),
            unrouted=tuple(uow.instances.undecided(limits.rows, older_than=announced_by)),
            probes=tuple(state.name for state in uow.destinations.all() if is_probe_due(state, now=now)),
            collected=collected,
            expired=expired,
            died=died,
        )


def probe(name: str, wired: Wired, *, policy: BreakerPolicy) -> CheckResult | None:
    """Ask a destination whether it answers again; None when somebody else does, or nobody should."""
    with wired.units_of_work() as uow:
        if not take_probe(uow, name, now=wired.clock.now(), policy=policy):
            return None
        uow.commit()
    try:
        result = wired.destination(name).plugin.check()
    except NotFound:
        result = CheckResult(ok=False, detail="The destination is not in the configuration.")
    except Exception as error:  # a defect of a plug-in leaves the breaker open
        result = CheckResult(ok=False, detail=f"Internal error: {type(error).__name__}")
    with wired.units_of_work() as uow:
        finish_probe(uow, name, ok=result.ok, detail=result.detail, now=wired.clock.now(), policy=policy)
        uow.commit()
    return result


def _due(uow: UnitOfWork, name: str, wired: Wired) -> list[WakeUp]:
    """Answer as many wake-ups as the destination has free places: the rest follows by itself."""
    if not may_send(uow.destinations.get(name)):
        return []  # looking through a long queue that is held would find nothing
    entry = wired.destination(name)
    free = entry.concurrency - uow.deliveries.in_progress(name)
    if free <= 0:
        return []
    ids = uow.deliveries.next_due(name, now=wired.clock.now(), limit=free)
    return [WakeUp(Task.DELIVER, delivery_id, entry.kind, name) for delivery_id in ids]


def _orphaned(uow: UnitOfWork, wired: Wired, limits: SweepLimits) -> list[WakeUp]:
    """Answer due deliveries to destinations that are no longer configured: the try pauses them, visibly."""
    known = set(wired.destination_names())
    rows = [
        uow.deliveries.get(delivery_id)
        for delivery_id, _ in uow.deliveries.due(now=wired.clock.now(), limit=limits.orphans)
    ]
    first = {row.destination: row for row in reversed(rows) if row.destination not in known}
    return [WakeUp(Task.DELIVER, row.id, row.kind, name) for name, row in first.items()]


def _bury(wired: Wired, limits: SweepLimits) -> int:
    """Let those die that waited their whole life for a destination that does not answer."""
    died = 0
    with wired.units_of_work() as uow:
        for state in uow.destinations.all():
            entry = entry_of(wired, state.name)
            # A pause keeps everything: somebody is to change a setting, nothing is discarded.
            if entry is None or entry.safekeeping or entry.retry.life is None:
                continue
            if state.open_until is None or state.state is DestinationHealth.PAUSED:
                continue
            for delivery_id in uow.deliveries.find_ids(
                state=DeliveryState.PENDING, destination=state.name, limit=limits.rows
            ):
                delivery = uow.deliveries.get(delivery_id)
                if wired.clock.now() - delivery.created_at < entry.retry.life:
                    break  # they come in the order of their age
                if _died(uow, delivery, entry.retry.life, wired):
                    died += 1
                    if died % ROWS_PER_COMMIT == 0:
                        uow.commit()
        uow.commit()
    return died


def _died(uow: UnitOfWork, delivery: Delivery, life: timedelta, wired: Wired) -> bool:
    now = wired.clock.now()
    if now - delivery.due_at < life:
        return False
    state = advance_delivery(delivery.state, DeliveryEvent.LIFE_OVER)
    reason = delivery.reason or "The destination did not answer."
    if not uow.deliveries.move(
        delivery.id, source=delivery.state, to=state, due_at=now, reason=reason, now=now
    ):
        return False
    record_move(uow, delivery, EventName.DELIVERY_DIED, details={"reason": reason, "state": state.value})
    return True


def _mend_waits(wired: Wired, limits: SweepLimits) -> None:
    """Let nothing wait longer than was meant because the clock was set back meanwhile."""
    with wired.units_of_work() as uow:
        for state in uow.destinations.all():
            limit = wired.clock.now() + LONGEST_REST
            if state.open_until is not None and state.open_until > limit:
                lock_destination(uow, state.name)
                again = uow.destinations.get(state.name)
                if again is not None and again.open_until is not None and again.open_until > limit:
                    uow.destinations.save(replace(again, open_until=limit))
        uow.commit()
        while uow.deliveries.mend_waits(now=wired.clock.now(), tolerance=JUMP, limit=limits.rows):
            uow.commit()


def _collect(wired: Wired, limits: SweepLimits) -> int:
    moved = 0
    with wired.units_of_work() as uow:
        now = wired.clock.now()
        for delivery_id in uow.deliveries.quiet(now=now, limit=limits.rows):
            if _collected(uow, delivery_id, wired):
                moved += 1
                if moved % ROWS_PER_COMMIT == 0:
                    uow.commit()
        uow.commit()
    return moved


def _collected(uow: UnitOfWork, delivery_id: int, wired: Wired) -> bool:
    now = wired.clock.now()
    target = advance_delivery(DeliveryState.COLLECTING, DeliveryEvent.COLLECTED)
    if not uow.deliveries.move(
        delivery_id, source=DeliveryState.COLLECTING, to=target, due_at=now, reason=None, now=now
    ):
        return False
    delivery = uow.deliveries.get(delivery_id)
    record_move(uow, delivery, EventName.DELIVERY_COLLECTED, details={"items": delivery.items})
    return True


def _take_back(wired: Wired, limits: SweepLimits, watch: LeaseWatch, is_gone: IsGone) -> int:
    """Take back what is held by those who can neither send nor renew any more, and what nobody renews."""
    moved = 0
    with wired.units_of_work() as uow:
        held = uow.deliveries.held(limit=limits.rows)
    abandoned = {delivery.id for delivery in watch.abandoned(held, now_s=wired.clock.monotonic())}
    for delivery in held:
        is_dead = delivery.worker is not None and is_gone(delivery.worker)
        if not is_dead and delivery.id not in abandoned:
            continue
        with wired.units_of_work() as uow:
            lock_destination(uow, delivery.destination)
            # Who renewed just now keeps it; of the dead no renewal can come.
            attempt, at = (delivery.attempt, None) if is_dead else (None, delivery.lease_until)
            if take_back(uow, delivery, wired, at=at, attempt=attempt):
                uow.commit()
                moved += 1
    return moved
