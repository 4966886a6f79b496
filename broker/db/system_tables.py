"""Tables of the trail and its seal, of the roles that run, and of this installation."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Column, Field, SQLModel

from broker.db.columns import Id, bytes_column, id_column, instant_column, json_column, string_column


class EventRow(SQLModel, table=True):
    """What happened, in the transaction in which it happened; a sealer chains the hashes just after."""

    __tablename__ = "event"
    __table_args__ = (
        Index("ix_event_subject", "subject", "subject_id"),
        Index("ix_event_study", "study_instance_uid"),
        Index("ix_event_order", "order"),
        Index("ix_event_name_at", "name", "at"),
        Index("ix_event_actor", "actor", "name", "at"),
    )
    id: int | None = id_column()
    at: datetime = instant_column()
    name: str = string_column(48, nullable=False)
    subject: str = string_column(16, nullable=False)
    subject_id: int | None = Field(default=None, sa_column=Column(Id, nullable=True))
    study_instance_uid: str | None = string_column(64)
    order: int | None = Field(default=None, sa_column=Column(Id, nullable=True))
    actor: str = string_column(128, nullable=False)
    details: dict[str, Any] = json_column()
    seal_no: int | None = Field(default=None, sa_column=Column(Id, nullable=True, unique=True))
    """Place in the chain, without gaps; events are sealed in the order in which they became visible."""
    seal: bytes | None = bytes_column()
    """SHA-256 over the seal before and this event."""


class SealHeadRow(SQLModel, table=True):
    """The end of the chain: without it, cutting off the newest events would go unseen."""

    __tablename__ = "seal_head"
    id: int | None = id_column()
    seal_no: int = Field(sa_column=Column(Id, nullable=False))
    seal: bytes = bytes_column(nullable=False)


class HeartbeatRow(SQLModel, table=True):
    """A running role says it is alive and what it serves."""

    __tablename__ = "heartbeat"
    __table_args__ = (UniqueConstraint("role", "host", "pid"),)
    id: int | None = id_column()
    role: str = string_column(16, nullable=False)
    host: str = string_column(128, nullable=False)
    pid: int
    started_at: datetime = instant_column()
    beat_at: datetime = instant_column()
    details: dict[str, Any] = json_column()


class InstallationRow(SQLModel, table=True):
    """The one row that makes this installation itself; written at the first start, never changed."""

    __tablename__ = "installation"
    id: int | None = id_column()
    uid_namespace: str = string_column(36, nullable=False)
    """UUID: the same ids from the RIS always derive the same Study Instance UID here."""
    created_at: datetime = instant_column()
