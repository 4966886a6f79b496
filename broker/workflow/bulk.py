"""An act on many deliveries: a row that is worked off in slices, each slice one bounded transaction.

Whoever asks writes the row and goes away; the sweep works on it, and every slice moves the row's position together
with the deliveries it changed, so that a crash repeats nothing and leaves nothing out. Each delivery is its own
event with the person and the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from broker.domain.delivery import Priority
from broker.domain.events import Event, EventName, Subject
from broker.errors import BrokerError, Conflict, IllegalTransition, InvalidValue
from broker.workflow.bulk_port import BulkOperation, BulkState
from broker.workflow.clock import Clock
from broker.workflow.idempotency import RequestKey, is_repeat
from broker.workflow.operations import ALLOWED, Act, Asked, Target, act_in
from broker.workflow.selection import Selection
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork

ROWS_PER_COMMIT = 50
"""A longer transaction would make those wait who answer a modality."""
_LOCK = "bulk operations"
_MAX_REASONS = 20

KindOf = Callable[[str], str]
"""Kind of a configured destination. Raises NotFound."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An act on everything a selection means."""

    act: Act
    selection: Selection
    actor: str
    reason: str | None = None
    to: str | None = None
    """RETARGET: the other destination."""
    priority: Priority | None = None
    """PRIORITY: the new one."""
    expected: int = 0
    key: RequestKey | None = None


def start(wanted: Wanted, units_of_work: UnitsOfWork, clock: Clock, *, kind_of: KindOf) -> int:
    """Write down what is to be done, answer its id; with a key that was used before, that of then.

    Raises InvalidValue, NotFound or Conflict.
    """
    arguments = _arguments(wanted, kind_of)
    with units_of_work() as uow:
        now = clock.now()
        if wanted.key is not None and is_repeat(uow, wanted.key, now=now):
            known = uow.keys.subject(wanted.key.value)
            if known is None:
                raise Conflict("This idempotency key was used for another request.")
            return known
        selection = wanted.selection
        if selection.up_to is None:
            # What is planned from now on nobody has seen.
            selection = replace(selection, up_to=uow.deliveries.newest_id())
        key = uow.bulk.add(
            BulkOperation(
                id=0,
                act=wanted.act.value,
                selection=selection,
                arguments=arguments,
                actor=wanted.actor,
                reason=wanted.reason,
                state=BulkState.RUNNING,
                expected=wanted.expected,
                created_at=now,
                updated_at=now,
            )
        )
        if wanted.key is not None:
            uow.keys.note(wanted.key.value, key)
        uow.record(
            Event(
                EventName.BULK_STARTED,
                Subject.SYSTEM,
                subject_id=key,
                actor=wanted.actor,
                details={"act": wanted.act.value, "expected": wanted.expected, "why": wanted.reason},
            )
        )
        uow.commit()
        return key


def advance(operation_id: int, units_of_work: UnitsOfWork, clock: Clock, *, kind_of: KindOf) -> BulkOperation:
    """Work off one slice, answer how far it is. Two who do so at once take turns."""
    with units_of_work() as uow:
        uow.lock(_LOCK)
        operation = uow.bulk.get(operation_id, lock=True)
        if operation.state is not BulkState.RUNNING:
            return operation
        after = _slice(uow, operation, clock.now(), kind_of)
        uow.bulk.save(after)
        if after.state is BulkState.DONE:
            _record_end(uow, EventName.BULK_ENDED, after, actor=after.actor)
        uow.commit()
    return after


def advance_all(
    units_of_work: UnitsOfWork, clock: Clock, *, kind_of: KindOf, is_over: Callable[[], bool]
) -> int:
    """Work off what there is, slice by slice and in turn, until it is done or the time is over."""
    slices = 0
    with units_of_work() as uow:
        running = uow.bulk.running()
    while running and not is_over():
        for operation_id in list(running):
            slices += 1
            if advance(operation_id, units_of_work, clock, kind_of=kind_of).state is not BulkState.RUNNING:
                running.remove(operation_id)
            if is_over():
                break
    return slices


def stop(
    operation_id: int, units_of_work: UnitsOfWork, clock: Clock, *, actor: str, key: RequestKey | None = None
) -> bool:
    """Do no more of it; what is done stays done. False when it was over, or the same request came before."""
    with units_of_work() as uow:
        uow.lock(_LOCK)
        if is_repeat(uow, key, now=clock.now()):
            return False
        operation = uow.bulk.get(operation_id, lock=True)
        if operation.state is not BulkState.RUNNING:
            return False  # for good: a repeat finds the same
        stopped = replace(operation, state=BulkState.STOPPED, updated_at=clock.now())
        uow.bulk.save(stopped)
        _record_end(uow, EventName.BULK_STOPPED, stopped, actor=actor)
        uow.commit()
        return True


def asked_of(operation: BulkOperation, kind_of: KindOf) -> Asked:
    """Answer what an operation asks for each of its deliveries. Raises NotFound for a destination that is gone."""
    to = operation.arguments.get("to")
    return Asked(
        act=Act(operation.act),
        actor=operation.actor,
        reason=operation.reason,
        target=Target(str(to), kind_of(str(to))) if to else None,
        priority=Priority(int(operation.arguments.get("priority", Priority.ROUTINE))),
        operation=operation.id,
    )


def _slice(uow: UnitOfWork, operation: BulkOperation, now: datetime, kind_of: KindOf) -> BulkOperation:
    act = Act(operation.act)
    try:
        asked = asked_of(operation, kind_of)
    except BrokerError as error:
        # Its destination has left the site file meanwhile: the rest is left as it is, visibly.
        return replace(
            operation, state=BulkState.STOPPED, updated_at=now, skipped_why={str(error): operation.expected}
        )
    rows = uow.deliveries.select(
        operation.selection, states=ALLOWED[act], after=operation.position, limit=ROWS_PER_COMMIT
    )
    changed, why = 0, Counter[str](operation.skipped_why)
    for delivery in rows:
        try:
            if act_in(uow, delivery, asked, now=now):
                changed += 1
            else:
                why["nothing was to be changed"] += 1
        except (IllegalTransition, InvalidValue, Conflict) as error:
            # The number of the other delivery makes every such reason a reason of its own.
            why["its unit has another open delivery" if isinstance(error, Conflict) else str(error)] += 1
    skipped = operation.skipped + len(rows) - changed
    return replace(
        operation,
        state=BulkState.RUNNING if len(rows) == ROWS_PER_COMMIT else BulkState.DONE,
        position=rows[-1].id if rows else operation.position,
        changed=operation.changed + changed,
        skipped=skipped,
        skipped_why=dict(why.most_common(_MAX_REASONS)),
        updated_at=now,
    )


def _arguments(wanted: Wanted, kind_of: KindOf) -> Mapping[str, str | int]:
    if wanted.act is Act.RETARGET:
        if not wanted.to:
            raise InvalidValue("Say which destination it is sent to instead.", field="to")
        kind_of(wanted.to)
        return {"to": wanted.to}
    if wanted.act is Act.PRIORITY:
        if wanted.priority is None:
            raise InvalidValue("Say which priority.", field="priority")
        return {"priority": int(wanted.priority)}
    return {}


def _record_end(uow: UnitOfWork, name: EventName, operation: BulkOperation, *, actor: str) -> None:
    uow.record(
        Event(
            name,
            Subject.SYSTEM,
            subject_id=operation.id,
            actor=actor,
            details={"act": operation.act, "changed": operation.changed, "skipped": operation.skipped},
        )
    )


def told_operation(operation: BulkOperation) -> dict[str, Any]:
    """Answer one as a flat object, as programs read it."""
    return {
        **asdict(operation),
        "selection": operation.selection.stored(),
        "state": operation.state.value,
    }
