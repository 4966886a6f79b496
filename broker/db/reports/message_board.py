"""Lists HL7 messages in and out: each list a walk along one index from where the last page ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, tuple_

from broker.db.reports.messages import message_lines
from broker.db.reports.reading import Reader, mappings
from broker.db.schema import DELIVERY, MESSAGE
from broker.errors import NotFound
from broker.workflow.message_reports import Choices, MessageFilter, MessageRaw, SentLine
from broker.workflow.probe_port import PROBE
from broker.workflow.reports_port import MOST_ROWS, MessageLine

MAX_CHOICES = 50
_SENT = select(
    DELIVERY.c.id,
    DELIVERY.c.created_at,
    DELIVERY.c.destination,
    DELIVERY.c.state,
    DELIVERY.c.attempt,
    DELIVERY.c.reason,
    DELIVERY.c.order,
    DELIVERY.c.updated_at,
)
_OF_MESSAGES = DELIVERY.c.unit == "message"


class SqlMessageBoard(Reader):
    """Implements MessageBoard."""

    def messages_in(
        self, wanted: MessageFilter, *, before: int | None = None, limit: int = 50
    ) -> Sequence[MessageLine]:
        """List messages in, those behind the row `before`."""
        place = (MESSAGE.c.received_at, MESSAGE.c.id)
        statement = select(MESSAGE.c.id).where(*_conditions(wanted))
        statement = statement.order_by(*(column.desc() for column in place)).limit(_bounded(limit))
        with self._reading() as connection:
            if before is not None:
                last = connection.execute(select(*place).where(MESSAGE.c.id == before)).one_or_none()
                if last is None:
                    return []
                statement = statement.where(tuple_(*place) < tuple_(*last))
            ids = list(connection.execute(statement).scalars())
            lines = {line.message_id: line for line in message_lines(connection, ids)}
        return [lines[key] for key in ids if key in lines]

    def message(self, message_id: int) -> MessageRaw:
        """Answer one message in. Raises NotFound."""
        statement = select(MESSAGE.c.raw, MESSAGE.c.answer, MESSAGE.c.attempts).where(
            MESSAGE.c.id == message_id
        )
        with self._reading() as connection:
            row = connection.execute(statement).one_or_none()
            lines = message_lines(connection, [message_id])
        if row is None or not lines:
            raise NotFound("There is no such message.")
        return MessageRaw(
            lines[0], bytes(row.raw), None if row.answer is None else bytes(row.answer), row.attempts
        )

    def messages_out(
        self, wanted: MessageFilter, *, before: int | None = None, limit: int = 50
    ) -> Sequence[SentLine]:
        """List messages out, those behind the delivery `before`."""
        conditions: list[ColumnElement[bool]] = [_OF_MESSAGES]
        if wanted.outcome:
            conditions.append(DELIVERY.c.state == wanted.outcome.upper())
        if wanted.since is not None:
            conditions.append(DELIVERY.c.created_at >= wanted.since)
        if wanted.until is not None:
            conditions.append(DELIVERY.c.created_at < wanted.until)
        if before is not None:
            conditions.append(DELIVERY.c.id < before)
        found: list[SentLine] = []
        with self._reading() as connection:
            names = _receivers(connection)
            for name in names if not wanted.sender else [wanted.sender]:
                statement = _SENT.where(DELIVERY.c.destination == name, *conditions)
                newest = statement.order_by(DELIVERY.c.id.desc()).limit(_bounded(limit))
                found += [_sent(row) for row in mappings(connection, newest)]
        found.sort(key=lambda line: line.delivery, reverse=True)
        return found[: _bounded(limit)]

    def sent_message(self, delivery: int) -> tuple[SentLine, bytes]:
        """Answer one message out and its bytes. Raises NotFound."""
        statement = _SENT.add_columns(DELIVERY.c.payload).where(DELIVERY.c.id == delivery)
        with self._reading() as connection:
            rows = mappings(connection, statement)
        if not rows or rows[0]["payload"] is None:
            raise NotFound("There is no such message.")
        return _sent(rows[0]), bytes(rows[0]["payload"])

    def message_choices(self) -> Choices:
        """Answer the senders and types there are, at most 50 of each."""
        with self._reading() as connection:
            return Choices(
                _distinct(connection, MESSAGE.c.sending_application),
                _distinct(connection, MESSAGE.c.message_type),
            )


def _conditions(wanted: MessageFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [MESSAGE.c.sending_application != PROBE]
    for column, value in (
        (MESSAGE.c.outcome, wanted.outcome.lower()),
        (MESSAGE.c.sending_application, wanted.sender),
        (MESSAGE.c.message_type, wanted.message_type),
        (MESSAGE.c.message_control_id, wanted.control_id),
    ):
        if value:
            conditions.append(column == value)
    if wanted.since is not None:
        conditions.append(MESSAGE.c.received_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(MESSAGE.c.received_at < wanted.until)
    return conditions


def _receivers(connection: Connection) -> list[str]:
    """Hop along the index of destinations; a receiver of messages is one whose newest delivery is a message."""
    names: list[str] = []
    after = ""
    while len(names) < MAX_CHOICES:
        statement = select(func.min(DELIVERY.c.destination)).where(DELIVERY.c.destination > after)
        name = connection.execute(statement).scalar_one()
        if name is None:
            break
        after = str(name)
        newest = select(DELIVERY.c.unit).where(DELIVERY.c.destination == after)
        unit = connection.execute(newest.order_by(DELIVERY.c.id.desc()).limit(1)).scalar_one_or_none()
        if unit == "message":
            names.append(after)
    return names


def _distinct(connection: Connection, column: ColumnElement[Any]) -> list[str]:
    values: list[str] = []
    while len(values) < MAX_CHOICES:
        after = values[-1] if values else ""
        value = connection.execute(select(func.min(column)).where(column > after)).scalar_one()
        if value is None:
            break
        values.append(str(value))
    return values


def _bounded(limit: int) -> int:
    return max(1, min(limit, MOST_ROWS))


def _sent(row: Any) -> SentLine:
    return SentLine(
        delivery=row["id"],
        created_at=row["created_at"],
        destination=row["destination"],
        state=row["state"],
        attempt=row["attempt"],
        reason=row["reason"],
        order_id=row["order"],
        updated_at=row["updated_at"],
    )
