"""Tables of what is sent: deliveries, their items, and how their destinations fare."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, String, UniqueConstraint
from sqlmodel import Column, Field, SQLModel

from broker.db.columns import (
    Id,
    bytes_column,
    id_column,
    instant_column,
    partial_index,
    reference_column,
    string_column,
    text_column,
)

_OPEN = "state IN ('COLLECTING', 'PENDING', 'IN_PROGRESS')"


class DeliveryRow(SQLModel, table=True):
    """One obligation to send; this row, not a Celery message, is the queue."""

    __tablename__ = "delivery"
    __table_args__ = (
        # What happens often looks at open deliveries only: these stay small however long the history grows.
        partial_index("ix_delivery_quiet", "due_at", "destination", "id", holds="state = 'COLLECTING'"),
        partial_index(
            "ix_delivery_next", "destination", "priority", "due_at", "id", holds="state = 'PENDING'"
        ),
        partial_index(
            "ix_delivery_in_progress", "destination", "lease_until", "id", holds="state = 'IN_PROGRESS'"
        ),
        partial_index(
            "ix_delivery_ordering",
            "ordering_key",
            "destination",
            "id",
            holds=f"{_OPEN} AND ordering_key IS NOT NULL",
        ),
        partial_index("ix_delivery_dead", "id", "destination", holds="state = 'DEAD'"),
        partial_index(
            "ix_delivery_dead_urgent", "destination", "id", holds="state = 'DEAD' AND priority <= 1"
        ),
        # The dead by what is to be done about them.
        partial_index("ix_delivery_cause", "cause", "destination", "id", holds="state = 'DEAD'"),
        # What a bulk operation has touched: few rows have been.
        partial_index("ix_delivery_operation", "operation", "id", holds="operation IS NOT NULL"),
        Index("ix_delivery_route", "route", "id"),
        partial_index("ix_delivery_cancelled", "id", "destination", holds="state = 'CANCELLED'"),
        partial_index("ix_delivery_delivered", "updated_at", "destination", holds="state = 'DELIVERED'"),
        # One open delivery per route, destination and unit: routing twice, or two workers at once, join it.
        partial_index(
            "uq_delivery_open",
            "destination",
            "route",
            "unit_uid",
            holds=f"{_OPEN} AND route IS NOT NULL",
            unique=True,
        ),
        Index("ix_delivery_destination", "destination", "id"),
        Index("ix_delivery_created_at", "created_at"),
        CheckConstraint("attempt >= 0", name="attempt"),
    )
    id: int | None = id_column()
    destination: str = string_column(64, nullable=False)
    kind: str = string_column(16, nullable=False)
    route: str | None = string_column(64)
    unit: str = string_column(16, nullable=False)
    """instance, series, study, or message."""
    unit_uid: str = string_column(64, nullable=False)
    study_instance_uid: str | None = string_column(64, index=True)
    order: int | None = reference_column("imaging_order.id", nullable=True)
    ordering_key: str | None = string_column(128)
    """Deliveries of one key to one destination go one at a time, in order of id."""
    state: str = string_column(16, nullable=False)
    reason: str | None = text_column()
    failure_class: str | None = string_column(16)
    cause: str | None = string_column(32)
    """What the reason stands for; see domain.causes."""
    operation: int | None = Field(default=None, sa_column=Column(Id, nullable=True))
    """The bulk operation that touched it last."""
    attempt: int = 0
    """Fence: raised by every claim, repeated by every settle."""
    failures: int = 0
    """Consecutive failed tries, for the retry policy."""
    priority: int = 4
    due_at: datetime = instant_column()
    collect_until: datetime | None = instant_column(nullable=True)
    """Hard cap of the quiet period."""
    lease_until: datetime | None = instant_column(nullable=True)
    worker: str | None = string_column(128)
    payload: bytes | None = bytes_column()
    """The bytes themselves where there are no instances (HL7)."""
    items: int = 0
    items_delivered: int = 0
    items_rejected: int = 0
    first_sent_at: datetime | None = instant_column(nullable=True)
    created_at: datetime = instant_column()
    updated_at: datetime = instant_column()


class DeliveryItemRow(SQLModel, table=True):
    """One instance of a delivery."""

    __tablename__ = "delivery_item"
    __table_args__ = (
        UniqueConstraint("delivery", "instance"),
        Index("ix_delivery_item_state", "delivery", "state", "id"),
    )
    id: int | None = id_column()
    delivery: int = reference_column("delivery.id", index=False)
    instance: int = reference_column("instance.id")
    state: str = string_column(16, nullable=False)
    wire_status: str | None = string_column(8)
    reason: str | None = text_column()
    sends: int = 0
    settled_at: datetime | None = instant_column(nullable=True)


class DestinationRow(SQLModel, table=True):
    """What workers share about a destination: pause and breaker."""

    __tablename__ = "destination_state"
    name: str = Field(sa_column=Column(String(64), primary_key=True))
    state: str = string_column(16, nullable=False)
    """up, failing, paused."""
    reason: str | None = text_column()
    since: datetime = instant_column()
    failures: int = 0
    open_until: datetime | None = instant_column(nullable=True)
    """Circuit breaker: nothing is claimed before; also the next try of a misconfigured destination."""
    last_success_at: datetime | None = instant_column(nullable=True)
    held_by: str | None = string_column(128)
    """Who paused or drains it, when that was a person."""
    resume_at: datetime | None = instant_column(nullable=True)
    """A pause or a drain ends by itself then."""
    drain_to: int | None = Field(default=None, sa_column=Column(Id, nullable=True))
    """Draining: deliveries up to this id are sent, later ones are held."""
    last_check_at: datetime | None = instant_column(nullable=True)
    last_check: str | None = text_column()
