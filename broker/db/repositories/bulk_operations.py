"""Operations on many deliveries as stored, and the keys of requests that may come twice."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update

from broker.db.encoding import storable, storable_or_none
from broker.db.schema import BULK_OPERATION, IDEMPOTENCY_KEY
from broker.db.transaction import Transaction
from broker.errors import Conflict, NotFound
from broker.workflow.bulk_port import BulkOperation, BulkState
from broker.workflow.idempotency import OTHER_REQUEST
from broker.workflow.idempotency_port import Answer
from broker.workflow.selection import selection_of


class SqlBulkOperations:
    """Implements the BulkOperations port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add(self, operation: BulkOperation) -> int:
        """Store a new operation (its `id` is ignored), answer its id."""
        return self._transaction.insert(
            BULK_OPERATION,
            {
                "act": operation.act,
                "selection": operation.selection.stored(),
                "arguments": dict(operation.arguments),
                "actor": storable(operation.actor, 128),
                "created_at": operation.created_at,
                **_progress(operation),
            },
        )

    def get(self, operation: int, *, lock: bool = False) -> BulkOperation:
        """Answer one, locked for this transaction if asked. Raises NotFound."""
        statement = select(BULK_OPERATION).where(BULK_OPERATION.c.id == operation)
        row = self._transaction.execute(statement.with_for_update() if lock else statement).mappings().first()
        if row is None:
            raise NotFound("There is no such operation.")
        return bulk_operation_of(row)

    def save(self, operation: BulkOperation) -> None:
        """Store how far it is."""
        self._transaction.execute(
            update(BULK_OPERATION).where(BULK_OPERATION.c.id == operation.id).values(_progress(operation))
        )

    def running(self) -> list[int]:
        """Answer those that are not over, oldest first."""
        is_running = BULK_OPERATION.c.state == BulkState.RUNNING.value
        rows = self._transaction.execute(
            select(BULK_OPERATION.c.id).where(is_running).order_by(BULK_OPERATION.c.id)
        )
        return [int(key) for key in rows.scalars()]


class SqlIdempotencyKeys:
    """Implements the IdempotencyKeys port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def take(self, key: str, fingerprint: str, *, now: datetime, expires_at: datetime) -> bool:
        """Take a key in this transaction; False when the same request took it before.

        Raises Conflict when another request did.
        """
        is_ours = IDEMPOTENCY_KEY.c.key == key
        self._transaction.execute(delete(IDEMPOTENCY_KEY).where(is_ours, IDEMPOTENCY_KEY.c.expires_at <= now))
        insert = self._transaction.insert_ignoring(IDEMPOTENCY_KEY)
        values = {"key": key, "fingerprint": fingerprint, "subject": None, "expires_at": expires_at}
        taken = insert.values(values).returning(IDEMPOTENCY_KEY.c.key)
        if self._transaction.execute(taken).first() is not None:
            return True
        known = self._transaction.execute(select(IDEMPOTENCY_KEY.c.fingerprint).where(is_ours)).scalar()
        if known != fingerprint:
            raise Conflict(OTHER_REQUEST)
        return False

    def give_back(self, key: str) -> None:
        """Remove a key: what it was taken for has been refused."""
        self._transaction.execute(delete(IDEMPOTENCY_KEY).where(IDEMPOTENCY_KEY.c.key == key))

    def note(self, key: str, subject: int) -> None:
        """Keep the row that was made under a key."""
        self._transaction.execute(
            update(IDEMPOTENCY_KEY).where(IDEMPOTENCY_KEY.c.key == key).values(subject=subject)
        )

    def subject(self, key: str) -> int | None:
        """Answer the row that was made under a key."""
        found = self._transaction.execute(
            select(IDEMPOTENCY_KEY.c.subject).where(IDEMPOTENCY_KEY.c.key == key)
        ).scalar()
        return None if found is None else int(found)

    def remember(self, key: str, answer: Answer) -> None:
        """Keep what the request of a key was answered, if the key was taken."""
        self._transaction.execute(
            update(IDEMPOTENCY_KEY)
            .where(IDEMPOTENCY_KEY.c.key == key)
            .values(answer=json.dumps(asdict(answer)))
        )

    def answer(self, key: str, fingerprint: str, *, now: datetime) -> Answer | None:
        """Tell what the same request was answered before. Raises Conflict when another one took the key."""
        is_ours = (IDEMPOTENCY_KEY.c.key == key) & (IDEMPOTENCY_KEY.c.expires_at > now)
        statement = select(IDEMPOTENCY_KEY.c.fingerprint, IDEMPOTENCY_KEY.c.answer).where(is_ours)
        row = self._transaction.execute(statement).one_or_none()
        if row is None:
            return None
        if row.fingerprint != fingerprint:
            raise Conflict(OTHER_REQUEST)
        if row.answer is None:
            return None
        kept = json.loads(row.answer)
        return Answer(**{**kept, "shown": tuple(kept["shown"])})

    def forget(self, *, now: datetime) -> int:
        """Remove keys that have expired, answer how many."""
        gone = delete(IDEMPOTENCY_KEY).where(IDEMPOTENCY_KEY.c.expires_at <= now)
        return self._transaction.execute(gone).rowcount


def bulk_operation_of(row: Any) -> BulkOperation:
    """Read an operation from the mapping of a row."""
    return BulkOperation(
        id=row["id"],
        act=row["act"],
        selection=selection_of(row["selection"]),
        arguments=row["arguments"],
        actor=row["actor"],
        reason=row["reason"],
        state=BulkState(row["state"]),
        expected=row["expected"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        position=row["position"],
        changed=row["changed"],
        skipped=row["skipped"],
        skipped_why=row["skipped_why"],
    )


def _progress(operation: BulkOperation) -> dict[str, Any]:
    return {
        "reason": storable_or_none(operation.reason),
        "state": operation.state.value,
        "expected": operation.expected,
        "position": operation.position,
        "changed": operation.changed,
        "skipped": operation.skipped,
        "skipped_why": dict(operation.skipped_why),
        "updated_at": operation.updated_at,
    }
