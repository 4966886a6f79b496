"""Sealed events in the order of the chain, with the objects an audit message names, read for a whole batch at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, select

from broker.db.reports.reading import Reader, mappings
from broker.db.schema import (
    AUDIT_COLLECTOR,
    DELIVERY,
    EVENT,
    INSTANCE,
    ORDER,
    PATIENT,
    PERFORMED,
    PROCEDURE,
    SEAL_HEAD,
    STUDY,
)
from broker.domain.events import Subject
from broker.workflow.audit_port import CollectorState, PatientNamed, TrailEvent

MAX_EVENTS = 1000


class SqlTrailReports(Reader):
    """Implements the TrailReports port."""

    def trail(self, *, after: int, limit: int) -> Sequence[TrailEvent]:
        """Answer sealed events behind a place in the chain, in its order."""
        newest = select(EVENT).where(EVENT.c.seal_no > after).order_by(EVENT.c.seal_no)
        with self._reading() as connection:
            rows = mappings(connection, newest.limit(max(0, min(limit, MAX_EVENTS))))
            objects = _objects(connection, rows)
        return [_event(row, objects) for row in rows]

    def trail_end(self) -> int:
        """Answer the place of the last sealed event."""
        with self._reading() as connection:
            return int(connection.execute(select(SEAL_HEAD.c.seal_no)).scalar() or 0)

    def unsent_since(self, number: int) -> datetime | None:
        """Answer when the first event behind a place happened; None when it is the last."""
        first = select(EVENT.c.at).where(EVENT.c.seal_no > number).order_by(EVENT.c.seal_no).limit(1)
        with self._reading() as connection:
            at: datetime | None = connection.execute(first).scalar()
            return at

    def collectors(self) -> Sequence[CollectorState]:
        """Answer every collector that was ever sent to."""
        with self._reading() as connection:
            rows = mappings(connection, select(AUDIT_COLLECTOR).order_by(AUDIT_COLLECTOR.c.name))
        return [
            CollectorState(
                name=row["name"],
                number=row["seal_no"],
                handed_over_at=row["handed_over_at"],
                failing_since=row["failing_since"],
                problem=row["problem"] or "",
            )
            for row in rows
        ]


@dataclass(frozen=True, slots=True)
class _Objects:
    """What the events of a batch are about, by id or UID."""

    orders: Mapping[int, RowMapping]
    patients: Mapping[int, RowMapping]
    planned: Mapping[str, int]
    """Study Instance UID -> order."""
    received: Mapping[str, RowMapping]
    deliveries: Mapping[int, RowMapping]
    performed: Mapping[int, RowMapping]
    instances: Mapping[int, RowMapping]


def _objects(connection: Connection, rows: Sequence[RowMapping]) -> _Objects:
    def about(subject: Subject) -> set[int]:
        return {row["subject_id"] for row in rows if row["subject"] == subject.value and row["subject_id"]}

    def found(statement: Select[Any], column: Any, keys: Iterable[Any]) -> dict[Any, RowMapping]:
        wanted = sorted(set(keys))
        if not wanted:
            return {}
        return {row[column.name]: row for row in mappings(connection, statement.where(column.in_(wanted)))}

    performed = found(
        select(
            PERFORMED.c.id,
            PERFORMED.c.sop_instance_uid,
            PERFORMED.c.patient_id,
            PERFORMED.c.study_instance_uids,
        ),
        PERFORMED.c.id,
        about(Subject.PERFORMED_STEP),
    )
    studies = {row["study_instance_uid"] for row in rows if row["study_instance_uid"]}
    studies |= {uid for row in performed.values() for uid in row["study_instance_uids"][:1]}
    procedures = found(
        select(PROCEDURE.c.study_instance_uid, PROCEDURE.c.order), PROCEDURE.c.study_instance_uid, studies
    )
    planned = {uid: int(row["order"]) for uid, row in procedures.items()}
    orders = found(
        select(ORDER.c.id, ORDER.c.patient, ORDER.c.accession_number),
        ORDER.c.id,
        {row["order"] for row in rows if row["order"]} | set(planned.values()) | about(Subject.ORDER),
    )
    return _Objects(
        orders=orders,
        patients=found(
            select(PATIENT.c.id, PATIENT.c.patient_id, PATIENT.c.issuer, PATIENT.c.name),
            PATIENT.c.id,
            {row["patient"] for row in orders.values()} | about(Subject.PATIENT),
        ),
        planned=planned,
        received=found(
            select(STUDY.c.study_instance_uid, STUDY.c.patient_id, STUDY.c.accession_number),
            STUDY.c.study_instance_uid,
            studies,
        ),
        deliveries=found(
            select(DELIVERY.c.id, DELIVERY.c.destination, DELIVERY.c.kind, DELIVERY.c["items"]),
            DELIVERY.c.id,
            about(Subject.DELIVERY),
        ),
        performed=performed,
        instances=found(
            select(INSTANCE.c.id, INSTANCE.c.sop_class_uid, INSTANCE.c.patient_id),
            INSTANCE.c.id,
            about(Subject.INSTANCE),
        ),
    )


def _event(row: RowMapping, objects: _Objects) -> TrailEvent:
    subject, key, study = row["subject"], row["subject_id"], row["study_instance_uid"]
    delivery = objects.deliveries.get(key) if subject == Subject.DELIVERY.value else None
    performed = objects.performed.get(key) if subject == Subject.PERFORMED_STEP.value else None
    instance = objects.instances.get(key) if subject == Subject.INSTANCE.value else None
    if study is None and performed is not None:
        study = next(iter(performed["study_instance_uids"]), None)
    received = objects.received.get(study) if study else None
    number = row["order"] or (key if subject == Subject.ORDER.value else None)
    order = objects.orders.get(number or (objects.planned.get(study, 0) if study else 0))
    patient = objects.patients.get(
        key if subject == Subject.PATIENT.value else order["patient"] if order else 0
    )
    return TrailEvent(
        number=row["seal_no"],
        at=row["at"],
        name=row["name"],
        subject=subject,
        subject_id=key,
        study_instance_uid=study,
        order=row["order"],
        actor=row["actor"],
        details=row["details"],
        patient=_patient(patient, instance, performed, received),
        accession_number=(order["accession_number"] if order else None)
        or (received["accession_number"] if received else None)
        or "",
        destination=delivery["destination"] if delivery else "",
        destination_kind=delivery["kind"] if delivery else "",
        instances=(delivery["items"] or None) if delivery else None,
        mpps=performed["sop_instance_uid"] if performed else "",
        sop_class_uid=instance["sop_class_uid"] if instance else "",
    )


def _patient(known: RowMapping | None, *others: RowMapping | None) -> PatientNamed | None:
    """Answer the patient of the order, else what an object itself says."""
    if known is not None:
        return PatientNamed(known["patient_id"], known["issuer"], known["name"])
    for other in others:
        if other is not None and other["patient_id"]:
            return PatientNamed(other["patient_id"])
    return None
