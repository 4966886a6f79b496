"""The audit trail, searched by its indexes: by order, study, event and time, or by the newest first."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from broker.db.reports.reading import Reader, mappings, typed
from broker.db.schema import EVENT, INSTANCE, ORDER, PATIENT, PATIENT_ALIAS, PROCEDURE, STUDY
from broker.domain.events import Subject
from broker.workflow.audit_port import AuditLine, AuditQuestion

MAX_LINES = 500
_MAX_IDS = 500


class AuditReports(Reader):
    """Implements the AuditReports port."""

    def audit(
        self, question: AuditQuestion, *, before: int | None = None, limit: int = 50
    ) -> Sequence[AuditLine]:
        """Answer events that fit, newest first; `before` is the id of the last one seen."""
        with self._reading() as connection:
            wanted: list[ColumnElement[bool]] = []
            subject = _about(connection, question)
            if subject is not None:
                wanted.append(subject)
            if actor := typed(question.actor):
                wanted.append(EVENT.c.actor == actor)
            if question.what:
                wanted.append(EVENT.c.name == question.what)
            if question.since is not None:
                wanted.append(EVENT.c.at >= question.since)
            if question.until is not None:
                wanted.append(EVENT.c.at < question.until)
            if before is not None:
                wanted.append(EVENT.c.id < before)
            newest = select(EVENT).where(*wanted).order_by(EVENT.c.id.desc())
            rows = mappings(connection, newest.limit(max(0, min(limit, MAX_LINES))))
        return [
            AuditLine(
                id=row["id"],
                at=row["at"],
                what=row["name"],
                actor=row["actor"],
                address=str(row["details"].get("address", "")),
                subject=row["subject"],
                subject_id=row["subject_id"],
                study_instance_uid=row["study_instance_uid"],
                order=row["order"],
                details={key: value for key, value in row["details"].items() if key != "address"},
                is_sealed=row["seal_no"] is not None,
            )
            for row in rows
        ]


def _about(connection: Connection, question: AuditQuestion) -> ColumnElement[bool] | None:
    """Answer the condition on what the events are about; None when nothing is asked."""
    if patient := typed(question.patient):
        return _of_patient(connection, patient)
    if question.order is not None:
        return _of_orders([question.order])
    if study := typed(question.study_instance_uid):
        return EVENT.c.study_instance_uid == study
    return None


def _of_orders(orders: Sequence[int]) -> ColumnElement[bool]:
    return or_(
        EVENT.c.order.in_(orders),
        and_(EVENT.c.subject == Subject.ORDER.value, EVENT.c.subject_id.in_(orders)),
    )


def _of_patient(connection: Connection, patient_id: str) -> ColumnElement[bool]:
    """Find the orders and studies of everybody who has, or had, this id."""
    named = select(PATIENT.c.id).where(PATIENT.c.patient_id == patient_id)
    known_as = select(PATIENT_ALIAS.c.patient).where(PATIENT_ALIAS.c.value == patient_id)
    first = list(connection.execute(named.union(known_as).limit(_MAX_IDS)).scalars())
    merged = select(func.coalesce(PATIENT.c.merged_into, PATIENT.c.id)).where(PATIENT.c.id.in_(first))
    patients = sorted({*first, *connection.execute(merged).scalars()})
    newest = select(ORDER.c.id).where(ORDER.c.patient.in_(patients)).order_by(ORDER.c.id.desc())
    orders = list(connection.execute(newest.limit(_MAX_IDS)).scalars())
    planned = select(PROCEDURE.c.study_instance_uid).where(PROCEDURE.c.order.in_(orders))
    received = select(STUDY.c.study_instance_uid).where(STUDY.c.patient_id == patient_id)
    joined = select(INSTANCE.c.study_instance_uid).where(INSTANCE.c.order.in_(orders)).distinct()
    studies = list(connection.execute(planned.union(received, joined).limit(_MAX_IDS)).scalars())
    about = and_(EVENT.c.subject == Subject.PATIENT.value, EVENT.c.subject_id.in_(patients))
    return or_(_of_orders(orders), EVENT.c.study_instance_uid.in_(studies), about)
