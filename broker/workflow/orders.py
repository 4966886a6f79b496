"""Place, change, cancel, hold, complete: what an order message does to the orders it means (IHE RAD-2, RAD-4, RAD-13).

Idempotent: the same message again changes nothing. What contradicts the stored state raises a Conflict, and the
caller keeps the message for a person; all groups of a message take effect together or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.attributes import apply_changes
from broker.domain.events import EventName, Subject
from broker.domain.orders import (
    ImagingOrder,
    OrderAction,
    OrderDetails,
    Patient,
    PlaceOrders,
)
from broker.domain.steps import FINAL_STEPS, OrderStatus, StepEvent, StepStatus, roll_up
from broker.domain.values import AccessionNumber
from broker.errors import InvalidValue, MissingValue, UnknownOrder
from broker.workflow.clock import Clock
from broker.workflow.message_work import MessageWork
from broker.workflow.order_identity import event_time, find_orders, lock_keys
from broker.workflow.order_policy import OrderPolicy, OrdersPlaced
from broker.workflow.order_records import update_order
from broker.workflow.order_status import advance_step, bring_back, change_status, save_tree
from broker.workflow.order_tree import OrderTree, load_tree
from broker.workflow.orders_port import StepEncoder
from broker.workflow.patient_records import find_patient, refresh_entries, upsert_patient
from broker.workflow.procedure_records import apply_procedures
from broker.workflow.unit_of_work import UnitOfWork

_DETAILED = frozenset({"NW", "SN", "RO", "XO", "XX", "PA", "CH"})
"""HL7 table 0119: order controls whose message describes the order in full, whatever its status."""

_UPDATES = frozenset({OrderAction.PLACE, OrderAction.CHANGE})
_UPDATE_FIRST = frozenset(
    {OrderAction.COMPLETE, OrderAction.HOLD, OrderAction.ARRIVE, OrderAction.RESCHEDULE_STATUS}
)
"""What comes with a full description and changes the order too; a cancellation changes nothing else."""


@dataclass(slots=True)
class _Message:
    """A message on its way through its groups."""

    work: MessageWork
    request: PlaceOrders
    patient: Patient | None
    upserted: bool = False
    patient_changed: bool = False
    created: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    complete: dict[int, OrderDetails] = field(default_factory=dict)
    """Orders of which the message lists every step."""
    studies: dict[int, list[str]] = field(default_factory=dict)
    """Order created by this message -> its Study Instance UIDs."""
    newest_before: dict[int, datetime | None] = field(default_factory=dict)
    """Order -> its newest event before this message: all groups of a message happen at one time."""

    def its_patient(self) -> Patient:
        """Answer the patient, stored and up to date; only a message that changes an order changes a patient."""
        if not self.upserted or self.patient is None:
            done = upsert_patient(self.work, self.request.patient, self.patient)
            self.patient, self.upserted = done.patient, True
            self.patient_changed = bool(done.changed)
        return self.patient


def place_orders(
    request: PlaceOrders, uow: UnitOfWork, *, clock: Clock, encoder: StepEncoder, policy: OrderPolicy
) -> OrdersPlaced:
    """Apply every order group of a message; the caller commits.

    Raises a Conflict (UnknownOrder, AmbiguousOrder, WrongPatient, DuplicateKey, RecordLocked) or an InvalidValue;
    then nothing of the message may stay, and the caller undoes it.
    """
    work = MessageWork(uow, clock.now(), encoder, policy, request.source)
    groups = [details for details in request.orders if details.action is not OrderAction.IGNORE]
    if not groups:
        return OrdersPlaced(None)
    uow.lock(*lock_keys(request))
    message = _Message(work, request, find_patient(work, request.patient))
    for details in groups:
        _apply(message, details)
    for order, details in message.complete.items():
        _cancel_unlisted(message, order, details)
    if message.patient_changed and message.patient is not None:
        refresh_entries(work, message.patient, open_only=True)
    return OrdersPlaced(
        None if message.patient is None else message.patient.id,
        created=tuple(dict.fromkeys(message.created)),
        changed=tuple(dict.fromkeys(o for o in message.changed if o not in message.created)),
        unchanged=tuple(
            dict.fromkeys(o for o in message.unchanged if o not in {*message.created, *message.changed})
        ),
        ignored=tuple(dict.fromkeys(message.ignored)),
        studies=tuple(uid for uids in message.studies.values() for uid in uids),
        warnings=tuple(work.warnings),
    )


def _apply(message: _Message, details: OrderDetails) -> None:
    _check_identifiers(details)
    orders = find_orders(message.work, details, message.patient)
    if not orders:
        _apply_to_unknown(message, details)
    for order in orders:
        message.newest_before.setdefault(order.id, order.last_event_at)
        if _is_overtaken(message, details, order):
            message.work.warn("the order was cancelled after this message was written; it stays cancelled")
            message.ignored.append(order.id)
        else:
            _apply_to_known(message, details, order)


def _check_identifiers(details: OrderDetails) -> None:
    if details.accession_number:
        try:
            AccessionNumber(details.accession_number)
        except InvalidValue as problem:
            raise InvalidValue(str(problem), field="AccessionNumber") from problem


# ---- an order not known --------------------------------------------------------------------------------


def _apply_to_unknown(message: _Message, details: OrderDetails) -> None:
    work, action = message.work, details.action
    detailed = details.order_control in _DETAILED
    may_create = action is OrderAction.CHANGE and not work.policy.refuse_unknown_change
    if action is OrderAction.PLACE or may_create:
        _create(message, details, StepStatus.SCHEDULED)
    elif action is OrderAction.HOLD and detailed:
        _create(message, details, StepStatus.HELD)
    elif action is OrderAction.COMPLETE:
        if detailed and work.policy.create_completed:
            _create(message, details, StepStatus.COMPLETED)
        else:
            work.warn("an order that was never known is reported complete; ignored")
    elif action is OrderAction.RESCHEDULE_STATUS and _is_full(details):
        _create(message, details, StepStatus.SCHEDULED)
    elif action in (OrderAction.ARRIVE, OrderAction.RESCHEDULE_STATUS):
        work.warn("the order is not known; its status was ignored")
    elif action in (OrderAction.CANCEL, OrderAction.DISCONTINUE) and not work.policy.refuse_unknown_cancel:
        _remember_cancelled(message, details)
    else:
        raise UnknownOrder


def _is_full(details: OrderDetails) -> bool:
    """Tell whether a status message says enough of the order to schedule it."""
    return any(
        step.changes.get("Modality") and step.changes.get("ScheduledProcedureStepStartDate")
        for procedure in details.procedures
        for step in procedure.steps
    )


def _new_order(message: _Message, details: OrderDetails, status: OrderStatus) -> ImagingOrder:
    if not any(
        (
            details.placer_order_number,
            details.filler_order_number,
            details.accession_number,
            *(procedure.study_instance_uid for procedure in details.procedures),
        )
    ):
        # Without any the next message about the order could not name it.
        raise MissingValue(
            "The order has no number to know it by.", field="PlacerOrderNumberImagingServiceRequest"
        )
    work = message.work
    if not details.accession_number:
        # Legal (Type 2), but the report will have to be matched by hand. Making one up would be worse.
        work.warn("the order has no accession number")
    patient = message.its_patient()
    attributes, _ = apply_changes({}, details.changes)
    order = work.uow.orders.add(
        ImagingOrder(
            id=0,
            patient=patient.id,
            placer_order_number=details.placer_order_number,
            filler_order_number=details.filler_order_number,
            accession_number=details.accession_number or None,
            issuer_of_accession_number=details.issuer_of_accession_number,
            status=status,
            attributes=attributes,
            sending_application=work.source.sending_application,
            sending_facility=work.source.sending_facility,
            last_event_at=event_time(work, details) or work.now,
            sources=dict(details.sources),
        ),
        now=work.now,
    )
    message.created.append(order.id)
    return order


def _create(message: _Message, details: OrderDetails, status: StepStatus) -> None:
    work = message.work
    order = _new_order(message, details, roll_up([status]))
    work.record(
        EventName.ORDER_PLACED, Subject.ORDER, order.id, order=order.id, order_control=details.order_control
    )
    tree = OrderTree(message.its_patient(), order)
    apply_procedures(work, tree, details, status)
    message.studies[order.id] = tree.studies


def _remember_cancelled(message: _Message, details: OrderDetails) -> None:
    """Keep a cancelled order without steps, so that a placement that was overtaken does not come to life."""
    work = message.work
    if not (details.placer_order_number or details.filler_order_number or details.accession_number):
        work.warn("the order to cancel is not known and has no number to remember it by; ignored")
        return
    order = _new_order(message, details, OrderStatus.CANCELED)
    work.warn("the order to cancel is not known; the cancellation is remembered")
    work.record(
        EventName.ORDER_STATUS_CHANGED,
        Subject.ORDER,
        order.id,
        order=order.id,
        before=None,
        after=order.status.value,
        order_control=details.order_control,
    )


# ---- an order known ------------------------------------------------------------------------------------


def _is_newer(message: _Message, details: OrderDetails, order: ImagingOrder) -> bool:
    happened, newest = event_time(message.work, details), message.newest_before[order.id]
    return happened is None or newest is None or happened > newest


def _is_overtaken(message: _Message, details: OrderDetails, order: ImagingOrder) -> bool:
    """Tell whether a placement was cancelled meanwhile: it is older than what cancelled the order."""
    if details.action not in _UPDATES or order.status not in (OrderStatus.CANCELED, OrderStatus.DISCONTINUED):
        return False
    if details.order_control == "RO" or _is_newer(message, details, order):
        # A replacement follows the cancellation of what it replaces in one message, at one time.
        return False
    if message.work.uow.orders.procedures(order.id):
        return details.action is OrderAction.PLACE
    newest = message.newest_before[order.id]
    expired = newest is not None and newest < message.work.now - message.work.policy.tombstone
    return not expired


def _apply_to_known(message: _Message, details: OrderDetails, order: ImagingOrder) -> None:
    work = message.work
    work.uow.lock(f"order:{order.id}")
    # Read again: a scanner may have begun while we waited.
    order = work.uow.orders.get(order.id)
    newer = _is_newer(message, details, order)
    tree = load_tree(work, message.its_patient(), order)
    updates = details.action in _UPDATES or (
        details.action in _UPDATE_FIRST and details.order_control in _DETAILED
    )
    dirty: set[int] = set()
    order_changed = False
    if updates:
        # Later groups of one message may be steps of the same order under order numbers of their own.
        spoken_of = order.id in {*message.created, *message.changed, *message.unchanged}
        order_changed = update_order(work, tree, details, keep_numbers=spoken_of)
        was_empty = not tree.procedures
        dirty = apply_procedures(work, tree, details, StepStatus.SCHEDULED)
        if was_empty and dirty:
            work.record(
                EventName.ORDER_PLACED,
                Subject.ORDER,
                order.id,
                order=order.id,
                order_control=details.order_control,
            )
        if order_changed:
            dirty |= {step.id for step in tree.steps if step.status not in FINAL_STEPS}
        dirty |= bring_back(work, tree, details, newer=newer)
        if details.steps_are_complete and any(procedure.steps for procedure in details.procedures):
            message.complete[order.id] = details
    if details.action not in _UPDATES:
        dirty |= change_status(work, tree, details)
    changed = save_tree(work, tree, dirty, happened=event_time(work, details))
    if order.id in message.created:
        message.studies[order.id] = tree.studies
    (message.changed if changed or order_changed else message.unchanged).append(order.id)


def _cancel_unlisted(message: _Message, order: int, details: OrderDetails) -> None:
    """Cancel unstarted steps of an order whose message lists every step and leaves them out."""
    work = message.work
    tree = load_tree(work, message.its_patient(), work.uow.orders.get(order))
    dirty: set[int] = set()
    for step in tree.steps:
        if step.id in work.touched_steps or step.status in FINAL_STEPS:
            continue
        if step.status in (StepStatus.STARTED, StepStatus.DEPARTED):
            work.warn("a step in progress is missing from the order's list; it stays")
            continue
        advance_step(work, tree, step, StepEvent.ORDER_CANCELED)
        dirty.add(step.id)
    if save_tree(work, tree, dirty, happened=event_time(work, details)):
        message.changed.append(order)
