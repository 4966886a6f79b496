"""What an operator may do to a destination: pause it, drain it, let it go on.

`pause` stops claiming at once; what is on its way arrives. `drain` sends everything that was planned until now and
holds what comes later; when nothing is left it is a pause. Both end when a person resumes the destination, or by
themselves at an instant the person has named.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from broker.domain.events import Event, EventName, Subject
from broker.errors import InvalidValue
from broker.workflow.clock import Clock
from broker.workflow.destination_health import lock_destination
from broker.workflow.destinations_port import DestinationHealth, DestinationState
from broker.workflow.idempotency import RequestKey, is_repeat
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork
from broker.workflow.wake_ups import Task, WakeUp

FIRST_WAKE_UPS = 10
"""The rest of a long queue follows by itself: each delivery that ends hands on to the next."""
LONGEST = timedelta(days=31)
DRAINED = "Drained: everything planned before is sent, what came since is held."
BY_ITSELF = "The time of the pause is over."


@dataclass(frozen=True, slots=True)
class Hold:
    """Who wants a destination held, why, and until when."""

    actor: str
    reason: str = ""
    until: datetime | None = None
    """None: until a person resumes it."""
    key: RequestKey | None = field(default=None, compare=False)


def pause(name: str, units_of_work: UnitsOfWork, clock: Clock, hold: Hold) -> bool:
    """Stop sending to a destination; what is on its way arrives. Raises InvalidValue."""
    with units_of_work() as uow:
        now = clock.now()
        _check(hold, now)
        lock_destination(uow, name)
        if is_repeat(uow, hold.key, now=now):
            return False
        state = uow.destinations.get(name) or DestinationState(name, DestinationHealth.UP, since=now)
        said = hold.reason or f"Paused by {hold.actor}."
        is_held = state.state is DestinationHealth.PAUSED and state.open_until is None
        if is_held and state.resume_at == hold.until and hold.reason in ("", state.reason):
            _keep_key(uow, hold.key)
            return False
        # Without an instant to probe at, only a person ends it, or the instant this one has named.
        uow.destinations.save(
            replace(
                state,
                state=DestinationHealth.PAUSED,
                since=state.since if is_held else now,
                reason=said,
                open_until=None,
                held_by=hold.actor,
                resume_at=hold.until,
                drain_to=None,
            )
        )
        _record(uow, EventName.DESTINATION_PAUSED, name, hold, said)
        uow.commit()
        return True


def drain(name: str, units_of_work: UnitsOfWork, clock: Clock, hold: Hold) -> bool:
    """Send what was planned until now and hold what comes later. Raises InvalidValue."""
    with units_of_work() as uow:
        now = clock.now()
        _check(hold, now)
        lock_destination(uow, name)
        if is_repeat(uow, hold.key, now=now):
            return False
        state = uow.destinations.get(name) or DestinationState(name, DestinationHealth.UP, since=now)
        if state.drain_to is not None and state.resume_at == hold.until:
            _keep_key(uow, hold.key)
            return False
        if state.state is DestinationHealth.PAUSED and state.open_until is None:
            state = replace(state, state=DestinationHealth.UP, failures=0)  # what waits is to be sent
        said = hold.reason or f"Drained by {hold.actor}."
        last = state.drain_to if state.drain_to is not None else uow.deliveries.newest_id()
        uow.destinations.save(
            replace(state, since=now, reason=said, held_by=hold.actor, resume_at=hold.until, drain_to=last)
        )
        _record(uow, EventName.DESTINATION_DRAINING, name, hold, said)
        _wake_due(uow, name, now)
        uow.commit()
        return True


def resume(
    name: str,
    units_of_work: UnitsOfWork,
    clock: Clock,
    *,
    actor: str,
    reason: str = "",
    key: RequestKey | None = None,
) -> bool:
    """Send to a destination again, whether a person, the breaker or a wrong setting had stopped it."""
    with units_of_work() as uow:
        now = clock.now()
        lock_destination(uow, name)
        if is_repeat(uow, key, now=now):
            return False
        if not _resume_in(uow, name, now, actor=actor, reason=reason):
            _keep_key(uow, key)
            return False
        uow.commit()
        return True


def end_holds(units_of_work: UnitsOfWork, clock: Clock) -> int:
    """Resume what was to be held until now, and let what is drained be a pause; answer how many changed."""
    with units_of_work() as uow:
        now = clock.now()
        held = [s.name for s in uow.destinations.all() if s.resume_at is not None or s.drain_to is not None]
    ended = 0
    for name in held:
        with units_of_work() as uow:
            lock_destination(uow, name)
            state = uow.destinations.get(name)
            if state is not None and state.resume_at is not None and state.resume_at <= now:
                ended += _resume_in(uow, name, now, actor="broker", reason=BY_ITSELF)
            elif state is not None and state.drain_to is not None:
                ended += _drained_in(uow, state, now)
            uow.commit()
    return ended


def _keep_key(uow: UnitOfWork, key: RequestKey | None) -> None:
    """Let a repeat find its key although nothing was to be done: later there might be."""
    if key is not None:
        uow.commit()


def _resume_in(uow: UnitOfWork, name: str, now: datetime, *, actor: str, reason: str) -> bool:
    state = uow.destinations.get(name)
    if state is None or (
        state.state is DestinationHealth.UP and state.open_until is None and state.drain_to is None
    ):
        return False
    uow.destinations.save(
        replace(
            state,
            state=DestinationHealth.UP,
            since=now,
            reason=None,
            failures=0,
            open_until=None,
            held_by=None,
            resume_at=None,
            drain_to=None,
        )
    )
    details = {"destination": name, "reason": state.reason}
    if reason:
        details["why"] = reason
    uow.record(Event(EventName.DESTINATION_RESUMED, Subject.DESTINATION, actor=actor, details=details))
    _wake_due(uow, name, now)
    return True


def _drained_in(uow: UnitOfWork, state: DestinationState, now: datetime) -> bool:
    """Let a destination that has sent everything it was to send be a pause."""
    assert state.drain_to is not None
    if uow.deliveries.waits_up_to(state.name, state.drain_to):
        return False
    uow.destinations.save(
        replace(state, state=DestinationHealth.PAUSED, since=now, open_until=None, drain_to=None)
    )
    details = {"destination": state.name, "reason": DRAINED, "why": state.reason}
    uow.record(Event(EventName.DESTINATION_DRAINED, Subject.DESTINATION, details=details))
    return True


def _wake_due(uow: UnitOfWork, name: str, now: datetime) -> None:
    for delivery_id in uow.deliveries.next_due(name, now=now, limit=FIRST_WAKE_UPS):
        uow.wake(WakeUp(Task.DELIVER, delivery_id, uow.deliveries.get(delivery_id).kind, name))


def _check(hold: Hold, now: datetime) -> None:
    if hold.until is not None and not now < hold.until <= now + LONGEST:
        raise InvalidValue("must lie ahead, within a month", field="until")


def _record(uow: UnitOfWork, event: EventName, name: str, hold: Hold, said: str) -> None:
    details: dict[str, str | None] = {"destination": name, "reason": said}
    if hold.until is not None:
        details["until"] = hold.until.isoformat()
    uow.record(Event(event, Subject.DESTINATION, actor=hold.actor, details=details))
