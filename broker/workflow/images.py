"""Received objects: a file and its row, made durable together for a whole batch of receivers.

No event is written for an object that is new: its row says who sent it, when and from where, and routing writes
one event per series of a batch. An object that comes again, or comes with other content, is an event of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.domain.facts import FactValues
from broker.errors import DuplicateKey
from broker.failpoints import failpoint
from broker.workflow.clock import Clock
from broker.workflow.deliveries_port import Delivery
from broker.workflow.images_port import Instance, InstanceState, StoredFile
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork
from broker.workflow.wake_ups import Task, WakeUp

MAX_ATTEMPTS = 3
_MAX_IDENTIFIER_CHARACTERS = {"PatientID": 128, "AccessionNumber": 64, "Modality": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedObject:
    """One object whose file is durable."""

    file: StoredFile
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    facts: FactValues
    calling_ae_title: str
    called_ae_title: str
    peer: str
    """Address it came from."""


class Reception(Enum):
    """What a received object turned out to be."""

    NEW = "new"
    REPEATED = "repeated"
    """The same content again: the first file is kept, this one is not needed."""
    NEW_VERSION = "new version"
    """The same UID with other content: both are kept."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one received object; it is durable."""

    instance: int
    reception: Reception
    path: str
    """Where the content of the instance is kept: of a repeated one, the first file."""


@dataclass(frozen=True, slots=True)
class ResendPolicy:
    """What an identical object that comes again sets in motion.

    "Send it again" is the first remedy of whoever is on call, so deliveries to storage are opened again; never
    those to an algorithm or a printer, which would work twice.
    """

    storage_destinations: frozenset[str] = frozenset()
    resend_after: timedelta = timedelta(minutes=10)
    """A delivery that succeeded is repeated only when the object was last seen longer ago than that."""


def receive_images(
    batch: Sequence[ReceivedObject], units_of_work: UnitsOfWork, clock: Clock, *, policy: ResendPolicy
) -> list[Receipt]:
    """Make the rows of some received objects durable in one transaction, and wake routing.

    Raises OutOfResources when the database is away: then nothing may be acknowledged.
    """
    # Nearly every object is new, so look for a former one only when the database says so.
    try:
        with units_of_work() as uow:
            now = clock.now()
            ids = uow.instances.add_many([_row(received, now=now) for received in batch])
            uow.wake(WakeUp(Task.ROUTE, ids[0]))
            failpoint("cstore.before_commit")
            uow.commit()
            return [
                Receipt(key, Reception.NEW, received.file.path)
                for key, received in zip(ids, batch, strict=True)
            ]
    except DuplicateKey:
        pass
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return _receive_carefully(batch, units_of_work, clock, policy=policy)
        except DuplicateKey:
            # Another process stored the same object between our look and our insert.
            if attempt == MAX_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _receive_carefully(
    batch: Sequence[ReceivedObject], units_of_work: UnitsOfWork, clock: Clock, *, policy: ResendPolicy
) -> list[Receipt]:
    with units_of_work() as uow:
        uow.lock(*sorted({f"instance:{received.sop_instance_uid}" for received in batch}))
        now = clock.now()
        receipts = [_receive_one(uow, received, now=now, policy=policy) for received in batch]
        fresh = [receipt.instance for receipt in receipts if receipt.reception is not Reception.REPEATED]
        if fresh:
            uow.wake(WakeUp(Task.ROUTE, fresh[0]))
        uow.commit()
        return receipts


def _receive_one(
    uow: UnitOfWork, received: ReceivedObject, *, now: datetime, policy: ResendPolicy
) -> Receipt:
    versions = uow.instances.versions(received.sop_instance_uid)
    for known in versions:
        if known.sha256 == received.file.sha256 and known.transfer_syntax_uid == received.transfer_syntax_uid:
            _repeat(uow, known, received, now=now, policy=policy)
            return Receipt(known.id, Reception.REPEATED, known.path)
    version = versions[0].version + 1 if versions else 1
    (key,) = uow.instances.add_many([_row(received, now=now, version=version)])
    if version == 1:
        return Receipt(key, Reception.NEW, received.file.path)
    uow.record(
        Event(
            EventName.INSTANCE_VERSION_RECEIVED,
            Subject.INSTANCE,
            subject_id=key,
            study_instance_uid=received.study_instance_uid,
            actor=received.calling_ae_title,
            details={
                "sop_instance_uid": received.sop_instance_uid,
                "version": version,
                "other_study": received.study_instance_uid != versions[0].study_instance_uid,
            },
        )
    )
    return Receipt(key, Reception.NEW_VERSION, received.file.path)


def _repeat(
    uow: UnitOfWork, known: Instance, received: ReceivedObject, *, now: datetime, policy: ResendPolicy
) -> None:
    uow.instances.mark_resent(known.id, now=now)
    seen_long_ago = now - known.last_received_at >= policy.resend_after
    latest: dict[tuple[str, str | None], Delivery] = {}
    for delivery in uow.deliveries.of_instance(known.id):
        if delivery.destination in policy.storage_destinations and delivery.route is not None:
            latest[delivery.destination, delivery.route] = delivery
    reopened = [
        delivery.destination
        for delivery in latest.values()
        if _reopen(uow, delivery, known, now=now, seen_long_ago=seen_long_ago)
    ]
    uow.record(
        Event(
            EventName.INSTANCE_REPEATED,
            Subject.INSTANCE,
            subject_id=known.id,
            study_instance_uid=known.study_instance_uid,
            order=known.order,
            actor=received.calling_ae_title,
            details={"resends": known.resends + 1, "reopened": sorted(set(reopened))},
        )
    )


def _reopen(
    uow: UnitOfWork, delivery: Delivery, known: Instance, *, now: datetime, seen_long_ago: bool
) -> bool:
    """Send an instance again to where it failed, was cancelled, or arrived long ago; tell whether it will be."""
    if delivery.state is DeliveryState.DELIVERED:
        if not seen_long_ago:
            return False
    elif delivery.state not in (DeliveryState.DEAD, DeliveryState.CANCELLED):
        return False  # it is on its way
    assert delivery.route is not None
    open_one = uow.deliveries.open_for(
        destination=delivery.destination, route=delivery.route, unit_uid=delivery.unit_uid
    )
    if open_one is None and delivery.state is DeliveryState.DEAD:
        # The dead delivery itself goes on, with everything in it that has not arrived.
        uow.deliveries.reopen_items(delivery.id)
        moved = uow.deliveries.move(
            delivery.id,
            source=DeliveryState.DEAD,
            to=DeliveryState.PENDING,
            due_at=now,
            reason=None,
            now=now,
            failures=0,
        )
        if not moved:
            return False
        key = delivery.id
    else:
        key = open_one.id if open_one else uow.deliveries.add(_again(delivery, now=now), now=now)
        if not uow.deliveries.add_items(key, [known.id]):
            return False
    uow.record(
        Event(
            EventName.DELIVERY_REOPENED,
            Subject.DELIVERY,
            subject_id=key,
            study_instance_uid=delivery.study_instance_uid,
            order=delivery.order,
            details={"destination": delivery.destination, "before": delivery.state.value},
        )
    )
    uow.wake(WakeUp(Task.DELIVER, key, delivery.kind, delivery.destination))
    return True


def _again(delivery: Delivery, *, now: datetime) -> Delivery:
    return Delivery(
        id=0,
        destination=delivery.destination,
        kind=delivery.kind,
        route=delivery.route,
        unit=delivery.unit,
        unit_uid=delivery.unit_uid,
        state=DeliveryState.PENDING,
        attempt=0,
        failures=0,
        due_at=now,
        created_at=now,
        study_instance_uid=delivery.study_instance_uid,
        order=delivery.order,
        priority=delivery.priority,
    )


def _row(received: ReceivedObject, *, now: datetime, version: int = 1) -> Instance:
    return Instance(
        id=0,
        sop_instance_uid=received.sop_instance_uid,
        version=version,
        sop_class_uid=received.sop_class_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        study_instance_uid=received.study_instance_uid,
        series_instance_uid=received.series_instance_uid,
        path=received.file.path,
        size_bytes=received.file.size_bytes,
        data_set_offset=received.file.data_set_offset,
        sha256=received.file.sha256,
        facts=received.facts,
        calling_ae_title=received.calling_ae_title,
        called_ae_title=received.called_ae_title,
        peer=received.peer,
        state=InstanceState.RECEIVED,
        received_at=now,
        last_received_at=now,
        patient_id=_identifier(received.facts, "PatientID"),
        accession_number=_identifier(received.facts, "AccessionNumber"),
        modality=_identifier(received.facts, "Modality"),
    )


def _identifier(facts: FactValues, keyword: str) -> str | None:
    """Answer an identifier, or nothing where it is too long to be one: a cut one belongs to somebody else."""
    values = facts.get(keyword)
    if not values or not values[0] or len(values[0]) > _MAX_IDENTIFIER_CHARACTERS[keyword]:
        return None
    return values[0]
