"""Collectors of audit messages as stored: a place in the chain of events each, moved by one process at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import case, or_, select, update

from broker.db.encoding import storable
from broker.db.schema import AUDIT_COLLECTOR
from broker.db.transaction import Transaction

_PROBLEM = 200
_C = AUDIT_COLLECTOR.c


class SqlAuditCollectors:
    """Implements the AuditCollectors port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add(self, name: str, number: int, *, now: datetime) -> None:
        """Begin with a collector behind a place, unless it is known."""
        self._transaction.execute(
            self._transaction.insert_ignoring(AUDIT_COLLECTOR),
            {"name": name, "seal_no": number, "added_at": now},
        )

    def claim(self, name: str, owner: str, *, now: datetime, until: datetime) -> int | None:
        """Let one process send to it; answer its place, None while another one sends."""
        free = or_(_C.owner == owner, _C.lease_until.is_(None), _C.lease_until <= now)
        claimed = self._transaction.execute(
            update(AUDIT_COLLECTOR)
            .where(_C.name == name, free)
            .values(owner=storable(owner, 128), lease_until=until)
        )
        if not claimed.rowcount:
            return None
        found = self._transaction.execute(select(_C.seal_no).where(_C.name == name)).scalar_one()
        return int(found)

    def advance(self, name: str, owner: str, number: int, *, now: datetime, sent: bool) -> bool:
        """Move its place; False when another process sends to it by now."""
        values: dict[str, Any] = {"seal_no": number}
        if sent:
            values |= {"handed_over_at": now, "failing_since": None, "problem": None}
        moved = self._transaction.execute(
            update(AUDIT_COLLECTOR)
            .where(_C.name == name, _C.owner == owner, _C.seal_no <= number)
            .values(values)
        )
        return bool(moved.rowcount)

    def failed(self, name: str, owner: str, problem: str, *, now: datetime) -> None:
        """Keep since when, and why, it cannot be sent to."""
        since = case((_C.failing_since.is_(None), now), else_=_C.failing_since)
        self._transaction.execute(
            update(AUDIT_COLLECTOR)
            .where(_C.name == name, _C.owner == owner)
            .values(failing_since=since, problem=storable(problem, _PROBLEM))
        )
