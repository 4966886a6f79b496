"""Wire captures as stored."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, select, update

from broker.db.encoding import storable
from broker.db.schema import WIRE_CAPTURE
from broker.db.transaction import Transaction
from broker.errors import NotFound
from broker.workflow.captures_port import Capture

MOST_KEPT = 500
"""Looked at in one go; what is left comes with the next."""


class SqlCaptures:
    """Implements the Captures port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add(self, capture: Capture) -> int:
        """Store one, answer its id."""
        values = asdict(capture)
        del values["id"]
        stored = {"reason": storable(capture.reason, 500), "actor": storable(capture.actor, 128)}
        return self._transaction.insert(WIRE_CAPTURE, values | stored)

    def get(self, capture: int) -> Capture:
        """Answer one, locked for this transaction. Raises NotFound."""
        statement = select(WIRE_CAPTURE).where(WIRE_CAPTURE.c.id == capture).with_for_update()
        row = self._transaction.execute(statement).mappings().one_or_none()
        if row is None:
            raise NotFound("There is no capture of this number.")
        return capture_of(row)

    def running(self, *, now: datetime) -> list[Capture]:
        """Answer those that run now."""
        return self._those(and_(WIRE_CAPTURE.c.ended_at.is_(None), WIRE_CAPTURE.c.until > now))

    def overdue(self, *, now: datetime) -> list[Capture]:
        """Answer those whose time is over although nobody has ended them."""
        return self._those(and_(WIRE_CAPTURE.c.ended_at.is_(None), WIRE_CAPTURE.c.until <= now))

    def kept(self) -> list[Capture]:
        """Answer those that have ended and whose bytes are not removed, the oldest first."""
        return self._those(and_(WIRE_CAPTURE.c.deleted_at.is_(None), WIRE_CAPTURE.c.ended_at.is_not(None)))

    def _those(self, condition: ColumnElement[bool]) -> list[Capture]:
        statement = select(WIRE_CAPTURE).where(condition).order_by(WIRE_CAPTURE.c.id).limit(MOST_KEPT)
        return [capture_of(row) for row in self._transaction.execute(statement).mappings()]

    def end(self, capture: int, *, by: str, at: datetime) -> None:
        """Take note that it is over."""
        statement = update(WIRE_CAPTURE).where(WIRE_CAPTURE.c.id == capture)
        self._transaction.execute(statement.values(ended_at=at, ended_by=storable(by, 128)))

    def forget_bytes(self, capture: int, *, by: str, at: datetime) -> None:
        """Take note that its bytes are removed."""
        statement = update(WIRE_CAPTURE).where(WIRE_CAPTURE.c.id == capture)
        self._transaction.execute(statement.values(deleted_at=at, deleted_by=storable(by, 128)))


def capture_of(row: Any) -> Capture:
    """Read a capture from the mapping of a row."""
    return Capture(**{name: row[name] for name in Capture.__slots__})
