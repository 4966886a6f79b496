"""Tables of alerts, of the notices that tell of them, and of maintenance windows."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlmodel import SQLModel

from broker.db.tables import _fk, _id, _instant, _str, _text, _where


class AlertRow(SQLModel, table=True):
    """One condition of one thing, from being found to being over."""

    __tablename__ = "alert"
    __table_args__ = (
        # One open alert for each condition of each thing, however many look at once.
        _where("uq_alert_open", "kind", "subject", holds="state IN ('PENDING', 'RAISED')", unique=True),
        Index("ix_alert_state_updated", "state", "updated_at"),
    )
    id: int | None = _id()
    kind: str = _str(16, nullable=False)
    subject: str = _str(200, nullable=False)
    state: str = _str(16, nullable=False)
    """PENDING, RAISED, RECOVERED."""
    severity: str = _str(16, nullable=False)
    headline: str = _str(500, nullable=False)
    action: str = _str(500, nullable=False)
    link: str = _str(1000, nullable=False)
    first_seen_at: datetime = _instant()
    updated_at: datetime = _instant()
    clear_since: datetime | None = _instant(nullable=True)
    raised_at: datetime | None = _instant(nullable=True)
    recovered_at: datetime | None = _instant(nullable=True)
    told_at: datetime | None = _instant(nullable=True)
    acknowledged_at: datetime | None = _instant(nullable=True)
    acknowledged_by: str | None = _str(128)


class AlertNoticeRow(SQLModel, table=True):
    """What one channel is to carry about one alert; the row is the outbox."""

    __tablename__ = "alert_notice"
    __table_args__ = (_where("ix_alert_notice_due", "due_at", "id", holds="state = 'WAITING'"),)
    id: int | None = _id()
    alert: int = _fk("alert.id")
    channel: str = _str(16, nullable=False)
    notice: str = _str(16, nullable=False)
    state: str = _str(16, nullable=False)
    """WAITING, SENT, FAILED."""
    attempts: int = 0
    said: str | None = _text()
    due_at: datetime = _instant()
    created_at: datetime = _instant()
    settled_at: datetime | None = _instant(nullable=True)


class MaintenanceRow(SQLModel, table=True):
    """A span in which something is worked on: nobody is alarmed by it."""

    __tablename__ = "maintenance_window"
    __table_args__ = (_where("ix_maintenance_open", "ends_at", "id", holds="ended_at IS NULL"),)
    id: int | None = _id()
    starts_at: datetime = _instant()
    ends_at: datetime = _instant()
    subject: str = _str(200, nullable=False)
    """By the name alerts have for it; empty: everything."""
    reason: str = _str(500, nullable=False)
    actor: str = _str(128, nullable=False)
    ended_at: datetime | None = _instant(nullable=True)
    ended_by: str | None = _str(128)
