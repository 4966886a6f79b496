"""Tables of what people ask for: operations on many deliveries, and the keys that make asking twice harmless."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String
from sqlmodel import Column, Field, SQLModel

from broker.db.tables import Id, _id, _instant, _json, _str, _text, _where


class BulkOperationRow(SQLModel, table=True):
    """One act on many deliveries, worked off in slices; the row says how far it is."""

    __tablename__ = "bulk_operation"
    __table_args__ = (_where("ix_bulk_operation_open", "id", holds="state = 'RUNNING'"),)
    id: int | None = _id()
    act: str = _str(16, nullable=False)
    """retry, cancel, release, retarget or priority."""
    selection: dict[str, Any] = _json()
    arguments: dict[str, Any] = _json()
    actor: str = _str(128, nullable=False)
    reason: str | None = _text()
    state: str = _str(16, nullable=False)
    """RUNNING, DONE, STOPPED."""
    expected: int = 0
    """What the preview counted."""
    position: int = Field(default=0, sa_column=Column(Id, nullable=False))
    """Id of the last delivery that was looked at."""
    changed: int = 0
    skipped: int = 0
    skipped_why: dict[str, Any] = _json()
    """Why those were left alone: reason -> number."""
    created_at: datetime = _instant()
    updated_at: datetime = _instant()


class IdempotencyKeyRow(SQLModel, table=True):
    """A request somebody may send twice: the second time it is not done again."""

    __tablename__ = "idempotency_key"
    key: str = Field(sa_column=Column(String(200), primary_key=True))
    fingerprint: str = _str(64, nullable=False)
    """SHA-256 of what was asked: one key stands for one request."""
    subject: int | None = Field(default=None, sa_column=Column(Id, nullable=True))
    """Row that was made."""
    answer: str | None = _text()
    """What was answered, as JSON; NULL: not yet, or that was lost."""
    expires_at: datetime = _instant(index=True)
