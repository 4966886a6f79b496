"""Which stored order a message means: exactly one, none, or a conflict for a person."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from broker.domain.orders import (
    EntityIdentifier,
    ImagingOrder,
    OrderAction,
    OrderDetails,
    Patient,
    PlaceOrders,
)
from broker.domain.steps import OrderStatus
from broker.domain.values import parse_date
from broker.errors import AmbiguousOrder, Conflict, DuplicateKey, WrongPatient
from broker.workflow.message_work import MessageWork

_FINAL = frozenset({OrderStatus.COMPLETED, OrderStatus.CANCELED, OrderStatus.DISCONTINUED})
_CANCELS = frozenset({OrderAction.CANCEL, OrderAction.DISCONTINUE})


def lock_keys(request: PlaceOrders) -> tuple[str, ...]:
    """List what a message must not be applied to at the same time as another one, sorted against deadlocks."""
    keys = {f"patient:{identifier.value}" for identifier in request.patient.identifiers[:1]}
    for details in request.orders:
        keys |= {f"placer:{n.value}" for n in (details.placer_order_number,) if n}
        keys |= {f"filler:{n.value}" for n in (details.filler_order_number,) if n}
        if details.accession_number:
            keys.add(f"accession:{details.accession_number}")
        keys |= {f"study:{p.study_instance_uid}" for p in details.procedures if p.study_instance_uid}
    return tuple(sorted(keys))


def event_time(work: MessageWork, details: OrderDetails) -> datetime | None:
    """Answer when the event happened, as far as the sender says.

    The later of ORC-9 and MSH-7, because many senders repeat the order's creation time in ORC-9; never later
    than now, because some put the appointment there.
    """
    known = [instant for instant in (details.occurred_at, work.source.sent_at) if instant is not None]
    return min(max(known), work.now) if known else None


def find_orders(work: MessageWork, details: OrderDetails, patient: Patient | None) -> list[ImagingOrder]:
    """Find the orders meant: none, one, or for a cancellation all of one accession number.

    Raises AmbiguousOrder, WrongPatient, DuplicateKey, and Conflict for an event older than what is stored.
    """
    hits = work.uow.orders.identify(details, patient=None) or _known_by_study(work, details)
    hits = [order for order in hits if not _is_past_use(work, details, order, patient)]
    if len(hits) > 1:
        alike = {(order.patient, order.accession_number, order.issuer_of_accession_number) for order in hits}
        if details.action not in _CANCELS or len(alike) > 1 or hits[0].accession_number is None:
            raise AmbiguousOrder(f"{len(hits)} orders fit the identifiers of the message.")
    for order in hits:
        _check_patient(work, details, order, patient)
        _check_age(work, details, order)
    return hits


def _known_by_study(work: MessageWork, details: OrderDetails) -> list[ImagingOrder]:
    """Find the order of a message that has nothing but a Study Instance UID to go by."""
    if details.placer_order_number or details.filler_order_number or details.accession_number:
        # With numbers of its own it may be another order that shares the study (IHE RAD, group case).
        return []
    uids = [procedure.study_instance_uid for procedure in details.procedures if procedure.study_instance_uid]
    found = {p.order for uid in uids for p in work.uow.orders.procedures_with_study(uid)}
    return [work.uow.orders.get(order) for order in sorted(found)]


def _check_patient(
    work: MessageWork, details: OrderDetails, order: ImagingOrder, patient: Patient | None
) -> None:
    if patient is not None and order.patient == patient.id:
        return
    if work.policy.move_order and details.action is OrderAction.CHANGE:
        return
    if (
        details.action is OrderAction.PLACE
        and _same_accession(details, order)
        and not _shares_number(details, order)
    ):
        raise DuplicateKey(
            "The accession number belongs to an order of another patient.", field="AccessionNumber"
        )
    raise WrongPatient("The order belongs to another patient.", field="PatientID")


def _check_age(work: MessageWork, details: OrderDetails, order: ImagingOrder) -> None:
    """Refuse an event that is older than the newest one applied, where time and not arrival decides."""
    happened = event_time(work, details)
    if happened is None or order.last_event_at is None or happened >= order.last_event_at:
        return
    sender = (work.source.sending_application, work.source.sending_facility)
    other_source = sender != (order.sending_application, order.sending_facility)
    if other_source or work.source.sending_application in work.policy.timestamp_sources:
        raise Conflict("The event is older than the newest one applied to this order.")


def _is_past_use(
    work: MessageWork, details: OrderDetails, order: ImagingOrder, patient: Patient | None
) -> bool:
    """Tell whether the order only shares a reused accession number: final for long, and no other key in common."""
    if order.status not in _FINAL or not _same_accession(details, order) or _shares_number(details, order):
        return False
    own_studies = {procedure.study_instance_uid for procedure in work.uow.orders.procedures(order.id)}
    if any(procedure.study_instance_uid in own_studies for procedure in details.procedures):
        return False
    is_own = patient is not None and patient.id == order.patient
    if is_own and details.action is not OrderAction.PLACE:
        return False
    newest = _newest(work, order)
    return newest is not None and newest < work.now - work.policy.reuse_after


def _newest(work: MessageWork, order: ImagingOrder) -> datetime | None:
    """Answer the newest trace of an order: its last message, its planned days, what scanners reported of it."""
    traces = [order.last_event_at] if order.last_event_at else []
    days: list[str] = []
    for step in work.uow.steps.of_order(order.id):
        days += [step.start_date] if step.start_date else []
        days += [p.ended_at or p.started_at or "" for p in work.uow.performed.performed_of(step.id)]
    for text in days:
        day = parse_date(text[:8])
        if day is not None:
            traces.append(datetime(day.year, day.month, day.day, tzinfo=work.now.tzinfo))
    return max(traces) if traces else None


def _same_accession(details: OrderDetails, order: ImagingOrder) -> bool:
    return bool(details.accession_number) and details.accession_number == order.accession_number


def _shares_number(details: OrderDetails, order: ImagingOrder) -> bool:
    pairs: Iterable[tuple[EntityIdentifier | None, EntityIdentifier | None]] = (
        (details.placer_order_number, order.placer_order_number),
        (details.filler_order_number, order.filler_order_number),
    )
    return any(a is not None and b is not None and same_number(a, b) for a, b in pairs)


def same_number(one: EntityIdentifier, other: EntityIdentifier) -> bool:
    """Tell whether two order numbers are one; an authority only one side names does not contradict."""
    if one.value != other.value:
        return False
    return not one.namespace or not other.namespace or one.namespace == other.namespace
