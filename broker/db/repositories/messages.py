"""Inbound HL7 messages as stored."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, select, update

from broker.db.schema import MESSAGE
from broker.db.transaction import Transaction
from broker.errors import NotFound
from broker.workflow.ports import MessageOutcome, StoredMessage

_FIND = (
    select(MESSAGE)
    .where(
        MESSAGE.c.sending_application == bindparam("application"),
        MESSAGE.c.sending_facility == bindparam("facility"),
        MESSAGE.c.message_control_id == bindparam("control_id"),
    )
    .order_by(MESSAGE.c.id.desc())
)


class SqlMessages:
    """Implements the Messages port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def find(
        self, sending_application: str, sending_facility: str, message_control_id: str
    ) -> list[StoredMessage]:
        """Find the messages with this key, newest first."""
        rows = self._transaction.execute(
            _FIND,
            {
                "application": sending_application,
                "facility": sending_facility,
                "control_id": message_control_id,
            },
        )
        return [_message(row) for row in rows.mappings()]

    def add(self, message: StoredMessage) -> StoredMessage:
        """Store a new message (its `id` is ignored) and answer it with its id."""
        values = _values(message)
        return _message({**values, "id": self._transaction.insert(MESSAGE, values)})

    def save(self, message: StoredMessage) -> None:
        """Store a message again. Raises NotFound."""
        changed = self._transaction.execute(
            update(MESSAGE).where(MESSAGE.c.id == bindparam("key")), {**_values(message), "key": message.id}
        )
        if changed.rowcount != 1:
            raise NotFound("There is no such message.")

    def get(self, message: int) -> StoredMessage:
        """Answer a message. Raises NotFound."""
        row = (
            self._transaction.execute(select(MESSAGE).where(MESSAGE.c.id == message)).mappings().one_or_none()
        )
        if row is None:
            raise NotFound("There is no such message.")
        return _message(row)


def _values(message: StoredMessage) -> dict[str, Any]:
    return {
        "received_at": message.received_at,
        "peer": message.peer,
        "sending_application": message.sending_application,
        "sending_facility": message.sending_facility,
        "message_control_id": message.message_control_id,
        "message_type": message.message_type,
        "content_sha256": message.content_sha256,
        "raw": message.raw,
        "outcome": message.outcome.value,
        "acknowledgement_code": message.acknowledgement_code,
        "answer": message.answer,
        "problems": [dict(problem) for problem in message.problems],
        "order": message.order,
        "attempts": message.attempts,
    }


def _message(row: Any) -> StoredMessage:
    answer = row["answer"]
    return StoredMessage(
        id=row["id"],
        received_at=row["received_at"],
        peer=row["peer"],
        sending_application=row["sending_application"],
        sending_facility=row["sending_facility"],
        message_control_id=row["message_control_id"],
        message_type=row["message_type"],
        content_sha256=bytes(row["content_sha256"]),
        raw=bytes(row["raw"]),
        outcome=MessageOutcome(row["outcome"]),
        acknowledgement_code=row["acknowledgement_code"],
        answer=None if answer is None else bytes(answer),
        problems=tuple(row["problems"]),
        order=row["order"],
        attempts=row["attempts"],
    )
