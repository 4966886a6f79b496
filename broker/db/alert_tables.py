"""Tables of alerts, of the notices that tell of them, and of maintenance windows."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlmodel import SQLModel

from broker.db.columns import (
    id_column,
    instant_column,
    partial_index,
    reference_column,
    string_column,
    text_column,
)


class AlertRow(SQLModel, table=True):
    """One condition of one thing, from being found to being over."""

    __tablename__ = "alert"
    __table_args__ = (
        # One open alert for each condition of each thing, however many look at once.
        partial_index(
            "uq_alert_open", "kind", "subject", holds="state IN ('PENDING', 'RAISED')", unique=True
        ),
        Index("ix_alert_state_updated", "state", "updated_at"),
    )
    id: int | None = id_column()
    kind: str = string_column(16, nullable=False)
    subject: str = string_column(200, nullable=False)
    state: str = string_column(16, nullable=False)
    """PENDING, RAISED, RECOVERED."""
    severity: str = string_column(16, nullable=False)
    headline: str = string_column(500, nullable=False)
    action: str = string_column(500, nullable=False)
    link: str = string_column(1000, nullable=False)
    first_seen_at: datetime = instant_column()
    updated_at: datetime = instant_column()
    clear_since: datetime | None = instant_column(nullable=True)
    raised_at: datetime | None = instant_column(nullable=True)
    recovered_at: datetime | None = instant_column(nullable=True)
    told_at: datetime | None = instant_column(nullable=True)
    acknowledged_at: datetime | None = instant_column(nullable=True)
    acknowledged_by: str | None = string_column(128)


class AlertNoticeRow(SQLModel, table=True):
    """What one channel is to carry about one alert; the row is the outbox."""

    __tablename__ = "alert_notice"
    __table_args__ = (partial_index("ix_alert_notice_due", "due_at", "id", holds="state = 'WAITING'"),)
    id: int | None = id_column()
    alert: int = reference_column("alert.id")
    channel: str = string_column(16, nullable=False)
    notice: str = string_column(16, nullable=False)
    state: str = string_column(16, nullable=False)
    """WAITING, SENT, FAILED."""
    attempts: int = 0
    said: str | None = text_column()
    due_at: datetime = instant_column()
    created_at: datetime = instant_column()
    settled_at: datetime | None = instant_column(nullable=True)


class MaintenanceRow(SQLModel, table=True):
    """A span in which something is worked on: nobody is alarmed by it."""

    __tablename__ = "maintenance_window"
    __table_args__ = (partial_index("ix_maintenance_open", "ends_at", "id", holds="ended_at IS NULL"),)
    id: int | None = id_column()
    starts_at: datetime = instant_column()
    ends_at: datetime = instant_column()
    subject: str = string_column(200, nullable=False)
    """By the name alerts have for it; empty: everything."""
    reason: str = string_column(500, nullable=False)
    actor: str = string_column(128, nullable=False)
    ended_at: datetime | None = instant_column(nullable=True)
    ended_by: str | None = string_column(128)
