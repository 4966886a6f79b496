"""Tables of devices: who is let in for a time, who knocked in vain, and what each did last. All stay small."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, UniqueConstraint
from sqlmodel import Column, Field, SQLModel

from broker.db.columns import (
    id_column,
    instant_column,
    json_column,
    partial_index,
    string_column,
    text_column,
)


class AdmissionRow(SQLModel, table=True):
    """A device that is let in for a time; kept when it is over."""

    __tablename__ = "device_admission"
    __table_args__ = (
        # What every listener reads every second.
        partial_index("ix_device_admission_open", "until", holds="ended_at IS NULL"),
        Index("ix_device_admission_ae_title", "ae_title", "id"),
    )
    id: int | None = id_column()
    ae_title: str = string_column(16, nullable=False)
    address: str = string_column(64, nullable=False)
    """An address or a network."""
    since: datetime = instant_column()
    until: datetime = instant_column()
    reason: str = string_column(500, nullable=False)
    actor: str = string_column(128, nullable=False)
    ended_at: datetime | None = instant_column(nullable=True)
    ended_by: str | None = string_column(128)


class KnockRow(SQLModel, table=True):
    """Refused associations, those alike in one row."""

    __tablename__ = "device_knock"
    __table_args__ = (
        UniqueConstraint("ae_title", "called_ae_title", "address", "reason"),
        Index("ix_device_knock_address", "address"),
    )
    id: int | None = id_column()
    ae_title: str = string_column(16, nullable=False)
    called_ae_title: str = string_column(16, nullable=False)
    address: str = string_column(64, nullable=False)
    reason: str = string_column(16, nullable=False)
    """See domain.knocks."""
    number: int = Field(sa_column=Column(BigInteger, nullable=False))
    first_at: datetime = instant_column()
    last_at: datetime = instant_column(index=True)


class SignRow(SQLModel, table=True):
    """The last time a device did one thing."""

    __tablename__ = "device_sign"
    __table_args__ = (UniqueConstraint("ae_title", "what"),)
    id: int | None = id_column()
    ae_title: str = string_column(16, nullable=False)
    what: str = string_column(8, nullable=False)
    """echo, list, exam or images."""
    at: datetime = instant_column(index=True)
    status: int = 0
    """DIMSE status it was answered."""
    detail: str = string_column(100, nullable=False)
    address: str = string_column(64, nullable=False)


class ConversationRow(SQLModel, table=True):
    """One association; of each device the last few are kept."""

    __tablename__ = "device_conversation"
    __table_args__ = (Index("ix_device_conversation_ae_title", "ae_title", "id"),)
    id: int | None = id_column()
    ae_title: str = string_column(16, nullable=False)
    association: str = string_column(64, nullable=False)
    address: str = string_column(64, nullable=False)
    implementation: str = string_column(100, nullable=False)
    began_at: datetime = instant_column()
    ended_at: datetime = instant_column()
    served: dict[str, Any] = json_column()
    """What was asked for, and how often."""
    refused: int = 0
    end: str | None = text_column()
