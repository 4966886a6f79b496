"""Table of wire captures; the bytes lie in files."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlmodel import SQLModel

from broker.db.tables import _id, _instant, _str, _where


class CaptureRow(SQLModel, table=True):
    """What somebody had captured; kept when its bytes are gone."""

    __tablename__ = "wire_capture"
    __table_args__ = (
        # What every listener reads every second.
        _where("ix_wire_capture_open", "until", holds="ended_at IS NULL"),
        _where("ix_wire_capture_kept", "id", holds="deleted_at IS NULL"),
        Index("ix_wire_capture_name", "name", "id"),
    )
    id: int | None = _id()
    protocol: str = _str(8, nullable=False)
    """dicom or hl7."""
    name: str = _str(64, nullable=False)
    """Calling AE title or sending application; empty: whoever."""
    address: str = _str(64, nullable=False)
    """An address or a network; empty: anywhere."""
    since: datetime = _instant()
    until: datetime = _instant()
    reason: str = _str(500, nullable=False)
    actor: str = _str(128, nullable=False)
    ended_at: datetime | None = _instant(nullable=True)
    ended_by: str | None = _str(128)
    deleted_at: datetime | None = _instant(nullable=True)
    deleted_by: str | None = _str(128)
