"""Tables of what people ask for: operations on many deliveries, and the keys that make asking twice harmless."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String
from sqlmodel import Column, Field, SQLModel

from broker.db.columns import (
    Id,
    id_column,
    instant_column,
    json_column,
    partial_index,
    string_column,
    text_column,
)


class BulkOperationRow(SQLModel, table=True):
    """One act on many deliveries, worked off in slices; the row says how far it is."""

    __tablename__ = "bulk_operation"
    __table_args__ = (partial_index("ix_bulk_operation_open", "id", holds="state = 'RUNNING'"),)
    id: int | None = id_column()
    act: str = string_column(16, nullable=False)
    """retry, cancel, release, retarget or priority."""
    selection: dict[str, Any] = json_column()
    arguments: dict[str, Any] = json_column()
    actor: str = string_column(128, nullable=False)
    reason: str | None = text_column()
    state: str = string_column(16, nullable=False)
    """RUNNING, DONE, STOPPED."""
    expected: int = 0
    """What the preview counted."""
    position: int = Field(default=0, sa_column=Column(Id, nullable=False))
    """Id of the last delivery that was looked at."""
    changed: int = 0
    skipped: int = 0
    skipped_why: dict[str, Any] = json_column()
    """Why those were left alone: reason -> number."""
    created_at: datetime = instant_column()
    updated_at: datetime = instant_column()


class IdempotencyKeyRow(SQLModel, table=True):
    """A request somebody may send twice: the second time it is not done again."""

    __tablename__ = "idempotency_key"
    key: str = Field(sa_column=Column(String(200), primary_key=True))
    fingerprint: str = string_column(64, nullable=False)
    """SHA-256 of what was asked: one key stands for one request."""
    subject: int | None = Field(default=None, sa_column=Column(Id, nullable=True))
    """Row that was made."""
    answer: str | None = text_column()
    """What was answered, as JSON; NULL: not yet, or that was lost."""
    expires_at: datetime = instant_column(index=True)
