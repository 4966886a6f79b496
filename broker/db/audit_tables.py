"""Table of the collectors audit messages are sent to."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, String
from sqlmodel import Field, SQLModel

from broker.db.columns import Id, id_column, instant_column, string_column


class AuditCollectorRow(SQLModel, table=True):
    """How far a collector has been told: the trail itself is what waits for it."""

    __tablename__ = "audit_collector"
    id: int | None = id_column()
    name: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    seal_no: int = Field(sa_column=Column(Id, nullable=False))
    """Place in the chain of events up to which everything was handed over."""
    added_at: datetime = instant_column()
    handed_over_at: datetime | None = instant_column(nullable=True)
    failing_since: datetime | None = instant_column(nullable=True)
    problem: str | None = string_column(200)
    owner: str | None = string_column(128)
    """The process that sends to it, until its lease is over."""
    lease_until: datetime | None = instant_column(nullable=True)
