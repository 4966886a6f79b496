"""Lists inbound HL7 messages for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, or_, select

from broker.db.reports.reading import FIRST_PAGE, Reader, mappings, paged, typed
from broker.db.schema import MESSAGE
from broker.errors import NotFound
from broker.workflow.probe_port import PROBE
from broker.workflow.reports_port import MessageLine, Page

_COLUMNS = select(
    MESSAGE.c.id,
    MESSAGE.c.received_at,
    MESSAGE.c.peer,
    MESSAGE.c.sending_application,
    MESSAGE.c.message_control_id,
    MESSAGE.c.message_type,
    MESSAGE.c.outcome,
    MESSAGE.c.acknowledgement_code,
    MESSAGE.c.problems,
    MESSAGE.c.order,
)


class MessageReports(Reader):
    """Implements the messages part of the Reports port."""

    def messages(
        self, *, outcome: str | None = None, text: str | None = None, page: Page = FIRST_PAGE
    ) -> Sequence[MessageLine]:
        """List inbound messages, newest first; `text` is a control id or a sending application."""
        statement = _COLUMNS.order_by(MESSAGE.c.id.desc()).where(MESSAGE.c.sending_application != PROBE)
        if outcome:
            statement = statement.where(MESSAGE.c.outcome == outcome.strip().lower())
        if wanted := typed(text):
            statement = statement.where(
                or_(MESSAGE.c.message_control_id == wanted, MESSAGE.c.sending_application == wanted)
            )
        with self._reading() as connection:
            return [_line(row) for row in mappings(connection, paged(statement, page))]

    def message_raw(self, message_id: int) -> tuple[bytes, bytes | None]:
        """Answer the raw message and our answer. Raises NotFound."""
        statement = select(MESSAGE.c.raw, MESSAGE.c.answer).where(MESSAGE.c.id == message_id)
        with self._reading() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            raise NotFound("There is no such message.")
        return bytes(row.raw), None if row.answer is None else bytes(row.answer)


def message_lines(connection: Connection, ids: Sequence[int]) -> list[MessageLine]:
    """Answer messages, newest first."""
    statement = _COLUMNS.where(MESSAGE.c.id.in_(ids)).order_by(MESSAGE.c.id.desc())
    return [_line(row) for row in mappings(connection, statement)]


def _line(row: Any) -> MessageLine:
    return MessageLine(
        message_id=row["id"],
        received_at=row["received_at"],
        peer=row["peer"],
        sending_application=row["sending_application"],
        message_control_id=row["message_control_id"],
        message_type=row["message_type"],
        outcome=row["outcome"],
        acknowledgement_code=row["acknowledgement_code"],
        problems=tuple(row["problems"]),
        order_id=row["order"],
    )
