"""The circuit breaker of a destination, shared by all workers, and its pauses.

`open_until` is None: deliveries are sent. Set: nothing is sent until one probe, made after that instant, has
succeeded. A destination a person paused has no such instant and waits for a person.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from broker.domain.events import Event, EventName, Subject
from broker.workflow.destinations_port import DestinationHealth, DestinationState
from broker.workflow.unit_of_work import UnitOfWork

_ANSWERED = re.compile(r"^([AC]R): .*", re.DOTALL)
"""An HL7 acknowledgement code and the receiver's own words."""
LONGEST_REST = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a destination is left alone, and for how long."""

    failures: int = 5
    """Consecutive tries that failed to reach it."""
    first: timedelta = timedelta(seconds=60)
    cap: timedelta = LONGEST_REST
    misconfigured_retry: timedelta = LONGEST_REST
    probe: timedelta = timedelta(seconds=60)
    """How long nobody else probes while one does."""
    success_note: timedelta = timedelta(seconds=60)
    """How exactly the last success is kept."""

    def rest(self, failures: int) -> timedelta:
        """Answer how long to leave it alone after so many failures."""
        return min(self.cap, self.first * (1 << min(max(failures - self.failures, 0), 10)))


def lock_destination(uow: UnitOfWork, name: str) -> None:
    """Serialise claims and health of one destination until commit."""
    uow.lock(f"destination {name}")


def may_send(state: DestinationState | None) -> bool:
    """Answer whether deliveries may be sent now."""
    return state is None or (state.state is not DestinationHealth.PAUSED and state.open_until is None)


def is_probe_due(state: DestinationState, *, now: datetime) -> bool:
    """Answer whether somebody should ask the destination again."""
    return state.open_until is not None and state.open_until <= now


def note_contact(uow: UnitOfWork, name: str, *, now: datetime, policy: BreakerPolicy) -> None:
    """Note that the destination has confirmed something."""
    state = uow.destinations.get(name)
    if state is None or state.failures == 0:
        noted = None if state is None else state.last_success_at
        if noted is not None and now - noted < policy.success_note:
            return  # not a write for every image
    lock_destination(uow, name)
    state = uow.destinations.get(name) or DestinationState(name, DestinationHealth.UP, since=now)
    if state.state is DestinationHealth.FAILING and state.open_until is None:
        state = replace(state, state=DestinationHealth.UP, since=now, reason=None)
    if state.open_until is None:
        state = replace(state, failures=0)
    uow.destinations.save(replace(state, last_success_at=now))


def note_failure(
    uow: UnitOfWork, name: str, reason: str | None, *, now: datetime, policy: BreakerPolicy
) -> None:
    """Note that a try did not reach the destination; the breaker opens when that repeats."""
    lock_destination(uow, name)
    state = uow.destinations.get(name) or DestinationState(name, DestinationHealth.UP, since=now)
    if not may_send(state):
        return  # others were on their way when it opened
    # Everybody is shown how a destination is; what a receiver wrote into its answer may name a patient, and stays
    # with the delivery.
    reason = _ANSWERED.sub(r"\1", reason) if reason else reason
    failures = state.failures + 1
    since = state.since if state.state is DestinationHealth.FAILING else now
    opens = failures >= policy.failures
    uow.destinations.save(
        replace(
            state,
            state=DestinationHealth.FAILING,
            since=since,
            reason=reason,
            failures=failures,
            open_until=now + policy.rest(failures) if opens else None,
        )
    )
    if opens:
        _record(uow, EventName.DESTINATION_FAILING, name, reason, failures=failures)


def note_misconfigured(
    uow: UnitOfWork, name: str, reason: str | None, *, now: datetime, policy: BreakerPolicy
) -> None:
    """Pause the destination until a probe or a person finds it mended."""
    lock_destination(uow, name)
    state = uow.destinations.get(name) or DestinationState(name, DestinationHealth.UP, since=now)
    if state.state is DestinationHealth.PAUSED:
        return
    uow.destinations.save(
        replace(
            state,
            state=DestinationHealth.PAUSED,
            since=now,
            reason=reason,
            failures=state.failures + 1,
            open_until=now + policy.misconfigured_retry,
        )
    )
    _record(uow, EventName.DESTINATION_PAUSED, name, reason, failures=state.failures + 1)


def ask_again_now(uow: UnitOfWork, name: str, *, now: datetime) -> None:
    """Let the next look at a destination that rests ask it: a person says that it is mended.

    What a person paused rests without an instant, and stays as it is. Called before rows of its deliveries are
    written, as those who claim do: otherwise two could wait for each other.
    """
    state = uow.destinations.get(name)
    if state is None or state.open_until is None or state.open_until <= now:
        return
    lock_destination(uow, name)
    state = uow.destinations.get(name)
    if state is not None and state.open_until is not None and state.open_until > now:
        uow.destinations.save(replace(state, open_until=now))


def take_probe(uow: UnitOfWork, name: str, *, now: datetime, policy: BreakerPolicy) -> bool:
    """Answer whether the caller is the one who probes now."""
    lock_destination(uow, name)
    state = uow.destinations.get(name)
    if state is None or not is_probe_due(state, now=now):
        return False
    uow.destinations.save(replace(state, open_until=now + policy.probe))
    return True


def finish_probe(
    uow: UnitOfWork, name: str, *, ok: bool, detail: str, now: datetime, policy: BreakerPolicy
) -> None:
    """Close the breaker, or leave the destination alone for longer."""
    lock_destination(uow, name)
    state = uow.destinations.get(name)
    if state is None or state.open_until is None:
        return  # a person has paused or resumed it meanwhile
    if ok:
        uow.destinations.save(
            replace(
                state,
                state=DestinationHealth.UP,
                since=now,
                reason=None,
                failures=0,
                open_until=None,
                last_success_at=now,
            )
        )
        _record(uow, EventName.DESTINATION_RECOVERED, name, detail)
        return
    failures = state.failures + 1
    is_paused = state.state is DestinationHealth.PAUSED
    rest = policy.misconfigured_retry if is_paused else policy.rest(failures)
    uow.destinations.save(
        replace(state, failures=failures, open_until=now + rest, reason=state.reason or detail)
    )


def _record(uow: UnitOfWork, event: EventName, name: str, reason: str | None, *, failures: int = 0) -> None:
    uow.record(
        Event(
            event,
            Subject.DESTINATION,
            details={"destination": name, "reason": reason, "failures": failures},
        )
    )
