"""Tables of performed procedure steps and what they are linked to."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlmodel import Column, Field, SQLModel

from broker.db.columns import (
    Id,
    Json,
    bytes_column,
    id_column,
    instant_column,
    json_column,
    reference_column,
    string_column,
)


class PerformedStepRow(SQLModel, table=True):
    """A performed procedure step (MPPS)."""

    __tablename__ = "performed_procedure_step"
    # How far each device's clock is off is told from its newest exams.
    __table_args__ = (Index("ix_performed_calling", "calling_ae_title", "id"),)
    id: int | None = id_column()
    sop_instance_uid: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    status: str = string_column(16, nullable=False)
    calling_ae_title: str = string_column(16, nullable=False)
    performed_station_ae_title: str | None = string_column(16)
    modality: str | None = string_column(16)
    patient_id: str | None = string_column(128)
    study_instance_uids: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    data_set: bytes = bytes_column(nullable=False)
    """Merged state, Explicit VR Little Endian."""
    series: dict[str, Any] = json_column()
    """Series Instance UID -> SOP Instance UIDs listed as created."""
    started_at: str | None = string_column(14)
    ended_at: str | None = string_column(14)
    discontinuation_reason: str | None = string_column(64)
    matched: bool = False
    patient_mismatch: bool = False
    created_at: datetime = instant_column()
    updated_at: datetime = instant_column()


class PerformedLinkRow(SQLModel, table=True):
    """Which scheduled steps a performed step performs."""

    __tablename__ = "performed_step_link"
    __table_args__ = (UniqueConstraint("performed", "step"),)
    id: int | None = id_column()
    performed: int = reference_column("performed_procedure_step.id")
    step: int = reference_column("scheduled_procedure_step.id")


class PerformedStudyRow(SQLModel, table=True):
    """Which studies a performed step names, for finding it by one; it is asked whenever a series may be complete."""

    __tablename__ = "performed_study"
    study_instance_uid: str = Field(sa_column=Column(String(64), primary_key=True))
    performed: int = Field(
        sa_column=Column(
            Id, ForeignKey("performed_procedure_step.id"), primary_key=True, autoincrement=False, index=True
        )
    )
