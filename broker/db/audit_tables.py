"""Table of the collectors audit messages are sent to."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, String
from sqlmodel import Field, SQLModel

from broker.db.tables import Id, _id, _instant, _str


class AuditCollectorRow(SQLModel, table=True):
    """How far a collector has been told: the trail itself is what waits for it."""

    __tablename__ = "audit_collector"
    id: int | None = _id()
    name: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    seal_no: int = Field(sa_column=Column(Id, nullable=False))
    """Place in the chain of events up to which everything was handed over."""
    added_at: datetime = _instant()
    handed_over_at: datetime | None = _instant(nullable=True)
    failing_since: datetime | None = _instant(nullable=True)
    problem: str | None = _str(200)
    owner: str | None = _str(128)
    """The process that sends to it, until its lease is over."""
    lease_until: datetime | None = _instant(nullable=True)
