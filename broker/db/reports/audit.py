"""The audit trail, searched by its indexes: by order and study, or by person and event in the order of time.

Without a patient, order or study every event name is searched by itself and the newest of each are put together:
an index answers each of them in the order of time, and what is rare costs no more than what is frequent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, func, or_, select, true

from broker.db.reports.reading import Reader, mappings, typed
from broker.db.schema import EVENT, INSTANCE, ORDER, PATIENT, PATIENT_ALIAS, PROCEDURE, STUDY
from broker.domain.events import Subject
from broker.workflow.audit_port import AuditLine, AuditQuestion

MAX_LINES = 500
MAX_FILE = 20_000
_MAX_IDS = 500
_UNTOLD = {"address", "identifier", "transfer_syntax"}
"""Told elsewhere in a line, or octets that say nothing to a person."""


class AuditReports(Reader):
    """Implements the AuditReports port."""

    def audit(
        self, question: AuditQuestion, *, before: int | None = None, limit: int = 50
    ) -> Sequence[AuditLine]:
        """Answer events that fit, newest first; `before` is the id of the last one seen."""
        limit = max(0, min(limit, MAX_LINES))
        with self._reading() as connection:
            wanted = _times(connection, question, before)
            subject = _about(connection, question)
            if subject is None:
                rows = _newest(connection, question, wanted, limit)
            else:
                rows = _of_subject(connection, subject, question, wanted, limit)
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
                details={key: value for key, value in row["details"].items() if key not in _UNTOLD},
                is_sealed=row["seal_no"] is not None,
            )
            for row in rows
        ]

    def audit_file(self, question: AuditQuestion) -> Sequence[AuditLine]:
        """Answer every event that fits, newest first, as many as a file holds."""
        lines: list[AuditLine] = []
        while len(lines) < MAX_FILE:
            part = self.audit(question, before=lines[-1].id if lines else None, limit=MAX_LINES)
            lines += part
            if len(part) < MAX_LINES:
                break
        return lines


def _times(connection: Connection, question: AuditQuestion, before: int | None) -> list[ColumnElement[bool]]:
    """Answer the conditions on the time, from the last event seen on."""
    wanted: list[ColumnElement[bool]] = []
    if question.since is not None:
        wanted.append(EVENT.c.at >= question.since)
    if question.until is not None:
        wanted.append(EVENT.c.at < question.until)
    if before is not None:
        at = connection.execute(select(EVENT.c.at).where(EVENT.c.id == before)).scalar()
        if at is not None:
            wanted.append(EVENT.c.at <= at)
            wanted.append(or_(EVENT.c.at < at, EVENT.c.id < before))
        else:
            wanted.append(EVENT.c.id < before)
    return wanted


def _newest(
    connection: Connection, question: AuditQuestion, wanted: Sequence[ColumnElement[bool]], limit: int
) -> Sequence[RowMapping]:
    """Answer the newest events of a person or of everybody."""
    actor = typed(question.actor)
    whose = EVENT.c.actor == actor if actor else true()
    found: list[tuple[datetime, int]] = []
    for name in [question.what] if question.what else _names(connection, whose):
        newest = (
            select(EVENT.c.at, EVENT.c.id)
            .where(whose, EVENT.c.name == name, *wanted)
            .order_by(EVENT.c.at.desc(), EVENT.c.id.desc())
            .limit(limit)
        )
        found += [(at, key) for at, key in connection.execute(newest)]
    keys = [key for _, key in sorted(found, reverse=True)[:limit]]
    rows = {row["id"]: row for row in mappings(connection, select(EVENT).where(EVENT.c.id.in_(keys)))}
    return [rows[key] for key in keys]


def _names(connection: Connection, whose: ColumnElement[bool]) -> Sequence[str]:
    """Answer the names of events that are there, one step in the index for each instead of a walk along it."""
    names = select(func.min(EVENT.c.name).label("name")).where(whose).cte("names", recursive=True)
    following = select(func.min(EVENT.c.name)).where(whose, EVENT.c.name > names.c.name).scalar_subquery()
    names = names.union_all(select(following).where(names.c.name.is_not(None)))
    return connection.execute(select(names.c.name).where(names.c.name.is_not(None))).scalars().all()


def _of_subject(
    connection: Connection,
    subject: ColumnElement[bool],
    question: AuditQuestion,
    wanted: Sequence[ColumnElement[bool]],
    limit: int,
) -> Sequence[RowMapping]:
    """Answer the newest events about a patient, an order or a study: they are few, whoever is asked for besides."""
    conditions = [subject, *wanted]
    # The empty text keeps a database without statistics from going by the index of a person who did most of it all.
    if actor := typed(question.actor):
        conditions.append(EVENT.c.actor.concat("") == actor)
    if question.what:
        conditions.append(EVENT.c.name.concat("") == question.what)
    newest = select(EVENT).where(*conditions).order_by(EVENT.c.at.desc(), EVENT.c.id.desc())
    return mappings(connection, newest.limit(limit))


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
