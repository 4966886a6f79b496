"""Tables of received objects, their studies, and where each was decided to go."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, String, UniqueConstraint
from sqlmodel import Column, Field, SQLModel

from broker.db.columns import (
    Json,
    bytes_column,
    id_column,
    instant_column,
    json_column,
    partial_index,
    reference_column,
    string_column,
)


class InstanceRow(SQLModel, table=True):
    """One received object. The row is the outbox: RECEIVED means nobody has routed it yet."""

    __tablename__ = "instance"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "version"),
        Index("ix_instance_series", "series_instance_uid"),
        Index("ix_instance_study_received", "study_instance_uid", "received_at"),
        partial_index("ix_instance_undecided", "id", holds="state = 'RECEIVED'"),
        partial_index("ix_instance_unrouted", "id", "study_instance_uid", holds="state = 'UNROUTED'"),
        Index("ix_instance_received_at", "received_at"),
    )
    id: int | None = id_column()
    sop_instance_uid: str = string_column(64, nullable=False)
    version: int = 1
    sop_class_uid: str = string_column(64, nullable=False)
    transfer_syntax_uid: str = string_column(64, nullable=False)
    study_instance_uid: str = string_column(64, nullable=False)
    series_instance_uid: str = string_column(64, nullable=False)
    patient_id: str | None = string_column(128)
    accession_number: str | None = string_column(64)
    modality: str | None = string_column(16)
    path: str = string_column(255, nullable=False)
    """Relative to the store; never made of what a peer sent."""
    size_bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    data_set_offset: int
    """Where the data set starts in the Part 10 file, bytes."""
    sha256: bytes | None = bytes_column()
    """Of the data set as received."""
    facts: dict[str, Any] = json_column()
    """DICOM keyword (or path) -> list of text values, as scanned."""
    calling_ae_title: str = string_column(16, nullable=False)
    called_ae_title: str = string_column(16, nullable=False)
    peer: str = string_column(64, nullable=False)
    order: int | None = reference_column("imaging_order.id", nullable=True)
    state: str = string_column(16, nullable=False)
    """RECEIVED, ROUTED, UNROUTED."""
    received_at: datetime = instant_column()
    last_received_at: datetime = instant_column()
    """Moves when the same object is pushed again."""
    resends: int = 0


class StudyRow(SQLModel, table=True):
    """A study of which something was received: what lists of studies page through, in order of arrival.

    Written once, with its first instance, and never again, so that parallel senders do not wait for each other.
    """

    __tablename__ = "received_study"
    id: int | None = id_column()
    study_instance_uid: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    patient_id: str | None = string_column(128, index=True)
    accession_number: str | None = string_column(64, index=True)
    received_at: datetime = instant_column(index=True)


class DecisionRow(SQLModel, table=True):
    """Facts, configuration version and outcome of one routing decision; clauses are recomputed when asked."""

    __tablename__ = "route_decision"
    id: int | None = id_column()
    instance: int = reference_column("instance.id")
    study_instance_uid: str = string_column(64, nullable=False, index=True)
    configuration: int = reference_column("configuration.id", index=False)
    decided_at: datetime = instant_column()
    facts: dict[str, Any] = json_column()
    routes: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    conflicts: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
