"""Table of wire captures; the bytes lie in files."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlmodel import SQLModel

from broker.db.columns import id_column, instant_column, partial_index, string_column


class CaptureRow(SQLModel, table=True):
    """What somebody had captured; kept when its bytes are gone."""

    __tablename__ = "wire_capture"
    __table_args__ = (
        # What every listener reads every second.
        partial_index("ix_wire_capture_open", "until", holds="ended_at IS NULL"),
        partial_index("ix_wire_capture_kept", "id", holds="deleted_at IS NULL"),
        Index("ix_wire_capture_name", "name", "id"),
    )
    id: int | None = id_column()
    protocol: str = string_column(8, nullable=False)
    """dicom or hl7."""
    name: str = string_column(64, nullable=False)
    """Calling AE title or sending application; empty: whoever."""
    address: str = string_column(64, nullable=False)
    """An address or a network; empty: anywhere."""
    since: datetime = instant_column()
    until: datetime = instant_column()
    reason: str = string_column(500, nullable=False)
    actor: str = string_column(128, nullable=False)
    ended_at: datetime | None = instant_column(nullable=True)
    ended_by: str | None = string_column(128)
    deleted_at: datetime | None = instant_column(nullable=True)
    deleted_by: str | None = string_column(128)
