"""Reads one order with everything a scanner is told of it, and what a scanner last asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select

from broker.db.engine import READ_ONLY
from broker.db.reports.reading import Reader, mappings
from broker.db.repositories.steps import read_entries
from broker.db.schema import EVENT, INSTANCE, STEP
from broker.db.transaction import Transaction
from broker.domain.events import EventName
from broker.domain.orders import WorklistEntry
from broker.errors import NotFound
from broker.workflow.entries import InstanceLine, LastQuery

MAX_STEPS = 100
RECENT_QUERIES = 5000
"""Queries of all devices that are looked through, newest first."""


class SqlEntryReports(Reader):
    """Implements EntryReports."""

    def order_entries(self, order_id: int) -> Sequence[tuple[WorklistEntry, datetime]]:
        """Answer the entries of an order, at most 100, and since when each is in its status."""
        transaction = Transaction(self._engine.execution_options(**{READ_ONLY: True}))
        try:
            statement = select(STEP).where(STEP.c.order == order_id).order_by(STEP.c.id).limit(MAX_STEPS)
            entries = read_entries(transaction, statement)
            since = select(STEP.c.id, STEP.c.status_changed_at).where(
                STEP.c.id.in_([entry.step.id for entry in entries])
            )
            changed = {row.id: row.status_changed_at for row in transaction.execute(since)}
            return [(entry, changed[entry.step.id]) for entry in entries]
        finally:
            transaction.rollback()

    def instance(self, instance_id: int) -> InstanceLine:
        """Answer one received object. Raises NotFound."""
        columns = (INSTANCE.c.sop_class_uid, INSTANCE.c.transfer_syntax_uid, INSTANCE.c.study_instance_uid)
        statement = select(INSTANCE.c.id, *columns, INSTANCE.c.path).where(INSTANCE.c.id == instance_id)
        with self._reading() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            raise NotFound("There is no such image.")
        return InstanceLine(*row)

    def last_query(self, ae_title: str) -> LastQuery | None:
        """Answer the newest query of a device among the recent ones of all."""
        recent = (
            select(EVENT.c.at, EVENT.c.actor, EVENT.c.details)
            .where(EVENT.c.name == EventName.WORKLIST_QUERIED.value)
            .order_by(EVENT.c.at.desc())
            .limit(RECENT_QUERIES)
            .subquery()
        )
        statement = select(recent).where(recent.c.actor == ae_title).order_by(recent.c.at.desc()).limit(1)
        with self._reading() as connection:
            rows = mappings(connection, statement)
        if not rows:
            return None
        details = rows[0]["details"]
        keys, answers = details.get("keys"), details.get("answers")
        return LastQuery(
            rows[0]["at"],
            tuple(str(key) for key in keys) if isinstance(keys, list) else (),
            answers if isinstance(answers, int) else 0,
        )
