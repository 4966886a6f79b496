"""Statuses of steps and orders, moved by what an order message says of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from broker.domain.events import EventName, Subject
from broker.domain.orders import OrderAction, OrderDetails, ScheduledProcedureStep
from broker.domain.steps import OrderStatus, StepEvent, StepStatus, advance, roll_up
from broker.domain.uids import short_id
from broker.errors import RecordLocked
from broker.workflow.message_work import MessageWork
from broker.workflow.order_tree import OrderTree

_NEEDS_REST = frozenset({OrderAction.CANCEL, OrderAction.DISCONTINUE, OrderAction.HOLD})
"""Actions a step in progress refuses: the patient is on the table."""

_EVENTS = {
    OrderAction.CANCEL: StepEvent.ORDER_CANCELED,
    OrderAction.DISCONTINUE: StepEvent.ORDER_DISCONTINUED,
    OrderAction.HOLD: StepEvent.ORDER_HELD,
    OrderAction.RELEASE: StepEvent.ORDER_RELEASED,
    OrderAction.COMPLETE: StepEvent.ORDER_COMPLETED,
    OrderAction.ARRIVE: StepEvent.PATIENT_ARRIVED,
    OrderAction.RESCHEDULE_STATUS: StepEvent.ORDER_REINSTATED,
}
_OPEN = frozenset({StepStatus.SCHEDULED, StepStatus.ARRIVED, StepStatus.READY})
_FROM = {
    OrderAction.CANCEL: _OPEN | {StepStatus.HELD, StepStatus.DISCONTINUED},
    OrderAction.DISCONTINUE: _OPEN | {StepStatus.HELD},
    OrderAction.HOLD: _OPEN,
    OrderAction.RELEASE: frozenset({StepStatus.HELD}),
    OrderAction.COMPLETE: _OPEN | {StepStatus.HELD, StepStatus.STARTED, StepStatus.DEPARTED},
    OrderAction.ARRIVE: frozenset({StepStatus.SCHEDULED}),
    OrderAction.RESCHEDULE_STATUS: frozenset({StepStatus.ARRIVED, StepStatus.READY, StepStatus.HELD}),
}
_ALREADY = {
    OrderAction.CANCEL: frozenset({StepStatus.CANCELED}),
    OrderAction.DISCONTINUE: frozenset({StepStatus.DISCONTINUED}),
    OrderAction.HOLD: frozenset({StepStatus.HELD}),
    OrderAction.RELEASE: _OPEN,
    OrderAction.COMPLETE: frozenset({StepStatus.COMPLETED}),
    OrderAction.ARRIVE: frozenset({StepStatus.ARRIVED, StepStatus.READY, StepStatus.STARTED}),
    OrderAction.RESCHEDULE_STATUS: frozenset({StepStatus.SCHEDULED}),
}


def change_status(work: MessageWork, tree: OrderTree, details: OrderDetails) -> set[int]:
    """Move the steps a status message is about; answer the ids of those that moved. Raises RecordLocked."""
    action = details.action
    steps = _steps_meant(tree, details)
    busy = [step for step in steps if step.status in (StepStatus.STARTED, StepStatus.DEPARTED)]
    if busy and action in _NEEDS_REST:
        raise RecordLocked("The procedure is in progress.", field="OrderStatus")
    event = _EVENTS[action]
    if action is OrderAction.DISCONTINUE and work.policy.discontinued_before_start_is_canceled:
        event = StepEvent.ORDER_CANCELED
    dirty: set[int] = set()
    for step in steps:
        if step.status in _FROM[action]:
            advance_step(work, tree, step, event)
            dirty.add(step.id)
        elif step.status not in _ALREADY[action]:
            work.warn(f"a step that is {step.status.value} stays so: {event.value} changed nothing")
    return dirty


def _steps_meant(tree: OrderTree, details: OrderDetails) -> list[ScheduledProcedureStep]:
    """List the steps a status is about: those it names, else those of the procedures it names, else all."""
    issuer = details.issuer_of_accession_number
    procedures = {
        short_id(p.requested_procedure_id, issuer=issuer)
        for p in details.procedures
        if p.requested_procedure_id
    }
    named = {
        short_id(step.scheduled_procedure_step_id, issuer=issuer)
        for procedure in details.procedures
        for step in procedure.steps
        if step.scheduled_procedure_step_id
    }
    own = {p.id for p in tree.procedures if p.requested_procedure_id in procedures}
    of_procedures = [step for step in tree.steps if step.procedure in own] or tree.steps
    return [step for step in of_procedures if step.scheduled_procedure_step_id in named] or of_procedures


def advance_step(work: MessageWork, tree: OrderTree, step: ScheduledProcedureStep, event: StepEvent) -> None:
    """Move one step by the state table, and say so."""
    status = advance(step.status, event, previous=step.previous_status)
    previous = step.status if status is StepStatus.HELD else None
    tree.keep(replace(step, status=status, previous_status=previous))
    work.record(
        EventName.STEP_STATUS_CHANGED,
        Subject.STEP,
        step.id,
        order=tree.order.id,
        study_instance_uid=tree.entry(step).procedure.study_instance_uid,
        before=step.status.value,
        after=status.value,
        because=event.value,
    )


def bring_back(work: MessageWork, tree: OrderTree, details: OrderDetails, *, newer: bool) -> set[int]:
    """Reinstate cancelled steps a newer placement names, and those of a live order its newest list has again."""
    cancelled = tree.order.status in (OrderStatus.CANCELED, OrderStatus.DISCONTINUED)
    if details.action is OrderAction.PLACE:
        allowed = newer or details.order_control == "RO"
        states = frozenset({StepStatus.CANCELED, StepStatus.DISCONTINUED})
    elif details.action is OrderAction.CHANGE:
        allowed = newer and work.policy.reopen if cancelled else details.steps_are_complete
        states = frozenset({StepStatus.CANCELED})
    else:
        return set()
    back: set[int] = set()
    for step in tree.steps:
        named = step.id in work.touched_steps or (cancelled and not details.procedures)
        if not named or step.status not in states:
            continue
        if allowed:
            advance_step(work, tree, step, StepEvent.ORDER_REINSTATED)
            back.add(step.id)
        elif cancelled:
            work.warn("the order is cancelled and stays so: a change does not bring it back")
    return back


def save_tree(work: MessageWork, tree: OrderTree, dirty: set[int], *, happened: datetime | None) -> bool:
    """Write what changed under the order, its status, and when it was last spoken of; tell whether anything was."""
    for step in tree.steps:
        if step.id in dirty:
            work.save_step(tree.entry(step))
    order = tree.order
    newest = max(instant for instant in (order.last_event_at, happened or work.now) if instant is not None)
    if newest != order.last_event_at:
        order = replace(order, last_event_at=newest)
        work.uow.orders.save(order, now=work.now)
    status = roll_up([step.status for step in tree.steps]) if tree.steps else order.status
    if status is order.status:
        return bool(dirty)
    work.uow.orders.set_status(order.id, status, now=work.now)
    work.record(
        EventName.ORDER_STATUS_CHANGED,
        Subject.ORDER,
        order.id,
        order=order.id,
        before=order.status.value,
        after=status.value,
    )
    return True
