"""Inbound HL7 messages as stored."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, func, select, update

from broker.db.encoding import storable, storable_json
from broker.db.prepared import Prepared
from broker.db.schema import MESSAGE
from broker.db.transaction import Transaction
from broker.errors import NotFound
from broker.workflow.messages_port import MessageOutcome, StoredMessage

_KEY_CHARACTERS = 200
"""HL7 v2.9 MSH-10 has 199."""
_FIND = Prepared(
    select(MESSAGE)
    .where(
        MESSAGE.c.sending_application == bindparam("application"),
        MESSAGE.c.sending_facility == bindparam("facility"),
        MESSAGE.c.message_control_id == bindparam("control_id"),
    )
    .order_by(MESSAGE.c.id.desc())
    # Some senders give every message the same MSH-10; a resend follows what it repeats soon.
    .limit(20)
)
_LAST_ID = Prepared(select(func.max(MESSAGE.c.id).label("last")))
_NEXT_ID = select(func.nextval(func.pg_get_serial_sequence(MESSAGE.name, "id")))
_BY_ID = Prepared(select(MESSAGE).where(MESSAGE.c.id == bindparam("key")))
_SAVE = Prepared(
    update(MESSAGE).where(MESSAGE.c.id == bindparam("key")),
    ["outcome", "acknowledgement_code", "answer", "problems", "order", "attempts"],
)


class SqlMessages:
    """Implements the Messages port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def find(
        self, sending_application: str, sending_facility: str, message_control_id: str
    ) -> list[StoredMessage]:
        """Find the messages with this key, newest first."""
        rows = self._transaction.rows(
            _FIND,
            {
                "application": _key(sending_application),
                "facility": _key(sending_facility),
                "control_id": _key(message_control_id),
            },
        )
        return [_message(row) for row in rows]

    def reserve(self) -> int:
        """Answer an id for a new message, so that what it brings about can name it before it is stored."""
        if self._transaction.is_postgresql:
            return int(self._transaction.execute(_NEXT_ID).scalar_one())
        # SQLite has one writer at a time, and this transaction is it.
        rows = self._transaction.rows(_LAST_ID, {})
        return int(rows[0]["last"] or 0) + 1

    def add(self, message: StoredMessage) -> StoredMessage:
        """Store a new message and answer it as stored; one whose id is 0 gets one."""
        values = _values(message)
        if message.id:
            values["id"] = message.id
        return _message({**values, "id": self._transaction.insert(MESSAGE, values)})

    def save(self, message: StoredMessage) -> None:
        """Store what became of a message; what came stays as it came. Raises NotFound."""
        if self._transaction.change(_SAVE, {**_fate(message), "key": message.id}) != 1:
            raise NotFound("There is no such message.")

    def get(self, message: int) -> StoredMessage:
        """Answer a message. Raises NotFound."""
        row = self._transaction.row(_BY_ID, {"key": message})
        if row is None:
            raise NotFound("There is no such message.")
        return _message(row)


def _key(text: str) -> str:
    """Answer a part of the key as stored and looked up; a hostile one must not keep the message from being kept."""
    return storable(text, _KEY_CHARACTERS)


def _values(message: StoredMessage) -> dict[str, Any]:
    return {
        "received_at": message.received_at,
        "peer": storable(message.peer, 64),
        "sending_application": _key(message.sending_application),
        "sending_facility": _key(message.sending_facility),
        "message_control_id": _key(message.message_control_id),
        "message_type": storable(message.message_type, 32),
        "content_sha256": message.content_sha256,
        "raw": message.raw,
        **_fate(message),
    }


def _fate(message: StoredMessage) -> dict[str, Any]:
    return {
        "outcome": message.outcome.value,
        "acknowledgement_code": message.acknowledgement_code,
        "answer": message.answer,
        "problems": storable_json(message.problems),
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
