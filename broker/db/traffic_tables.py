"""Tables of who talks to us and when: counted from the rows of what came, small, and forgotten after some weeks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String, UniqueConstraint
from sqlmodel import Column, Field, SQLModel

from broker.db.columns import Id, Json, UtcDateTime


class TrafficSourceRow(SQLModel, table=True):
    """Somebody who talks to us: an HL7 sender, or a device by its AE title."""

    __tablename__ = "traffic_source"
    __table_args__ = (UniqueConstraint("kind", "name", "facility", "peer"),)
    id: int | None = Field(default=None, sa_column=Column(Id, primary_key=True, autoincrement=True))
    kind: str = Field(sa_column=Column(String(8), nullable=False))
    """sender or device."""
    name: str = Field(sa_column=Column(String(200), nullable=False))
    """Sending application, or AE title."""
    facility: str = Field(sa_column=Column(String(200), nullable=False))
    peer: str = Field(sa_column=Column(String(64), nullable=False))
    """Host of a sender; empty for devices, which are known by their AE title wherever they are."""
    first_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))
    last_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))
    last_what: str = Field(sa_column=Column(String(16), nullable=False))
    """message, images, list or exam."""
    rhythm: list[Any] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    """What is usual: [items, minutes] for each hour of the week in the site's zone, or null; empty: not learnt yet."""
    learnt_until: datetime | None = Field(default=None, sa_column=Column(UtcDateTime(), nullable=True))
    """How far counting had come when the rhythm was learnt."""


class TrafficHourRow(SQLModel, table=True):
    """What was heard of one source in one hour, UTC."""

    __tablename__ = "traffic_hour"
    source: int = Field(
        sa_column=Column(Id, ForeignKey("traffic_source.id"), primary_key=True, autoincrement=False)
    )
    hour: datetime = Field(sa_column=Column(UtcDateTime(), primary_key=True))
    items: int
    minutes: int
    bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Of the images among the items: from these the days are told until the disk is full."""


class TrafficMarkRow(SQLModel, table=True):
    """How far what came from one kind of source has been counted."""

    __tablename__ = "traffic_mark"
    kind: str = Field(sa_column=Column(String(8), primary_key=True))
    """sender or device."""
    counted_until: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))


class MeasurementRow(SQLModel, table=True):
    """A number that costs too much to be found whenever a page is looked at."""

    __tablename__ = "measurement"
    name: str = Field(sa_column=Column(String(32), primary_key=True))
    value: int = Field(sa_column=Column(BigInteger, nullable=False))
    at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))
