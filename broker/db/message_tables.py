"""Table of inbound HL7 messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index
from sqlmodel import Column, Field, SQLModel

from broker.db.columns import Json, bytes_column, id_column, instant_column, reference_column, string_column


class MessageRow(SQLModel, table=True):
    """An HL7 message in, kept as it came whatever became of it."""

    __tablename__ = "hl7_message"
    __table_args__ = (
        Index("ix_hl7_message_key", "sending_application", "sending_facility", "message_control_id"),
        Index("ix_hl7_message_outcome_received", "outcome", "received_at"),
        # Lists of one sender or one type of message, newest first.
        Index("ix_hl7_message_sender_received", "sending_application", "received_at"),
        Index("ix_hl7_message_type_received", "message_type", "received_at"),
        Index("ix_hl7_message_control_id", "message_control_id"),
    )
    id: int | None = id_column()
    received_at: datetime = instant_column(index=True)
    peer: str = string_column(64, nullable=False)
    sending_application: str = string_column(200, nullable=False)
    sending_facility: str = string_column(200, nullable=False)
    message_control_id: str = string_column(200, nullable=False)
    message_type: str = string_column(32, nullable=False)
    content_sha256: bytes = bytes_column(nullable=False)
    raw: bytes = bytes_column(nullable=False)
    outcome: str = string_column(16, nullable=False)
    """accepted, ignored, parked, refused, failed."""
    acknowledgement_code: str | None = string_column(2)
    answer: bytes | None = bytes_column()
    problems: list[Any] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    order: int | None = reference_column("imaging_order.id", nullable=True)
    attempts: int = 1
