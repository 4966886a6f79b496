"""Tables of patients, their orders, and the scheduled steps with their matching copies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, UniqueConstraint, text
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


class PatientRow(SQLModel, table=True):
    """A patient; (patient_id, issuer) is unique among patients that are not merged away."""

    __tablename__ = "patient"
    __table_args__ = (UniqueConstraint("patient_id", "issuer"),)
    id: int | None = id_column()
    patient_id: str = string_column(128, nullable=False)
    issuer: str = string_column(128, nullable=False)
    """Empty text where none is known, so that the unique constraint holds on every database."""
    name: str = string_column(400, nullable=False)
    name_key: str = string_column(400, nullable=False, index=True)
    """Normalised for matching; see domain.matching."""
    birth_date: str | None = string_column(8)
    sex: str | None = string_column(16)
    other_ids: list[Any] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    attributes: dict[str, Any] = json_column()
    sources: dict[str, str] = json_column()
    merged_into: int | None = reference_column("patient.id", nullable=True)
    created_at: datetime = instant_column()
    updated_at: datetime = instant_column()


class PatientAliasRow(SQLModel, table=True):
    """Further identifiers under which a patient is found."""

    __tablename__ = "patient_alias"
    __table_args__ = (UniqueConstraint("value", "issuer"),)
    id: int | None = id_column()
    patient: int = reference_column("patient.id")
    value: str = string_column(128, nullable=False)
    issuer: str = string_column(128, nullable=False)


class OrderRow(SQLModel, table=True):
    """An imaging service request."""

    __tablename__ = "imaging_order"
    __table_args__ = (
        Index("ix_imaging_order_status_updated", "status", "updated_at"),
        Index("ix_imaging_order_updated_at", "updated_at"),
        Index("ix_imaging_order_created_at", "created_at"),
    )
    id: int | None = id_column()
    patient: int = reference_column("patient.id")
    placer_order_number: str | None = string_column(128, index=True)
    placer_namespace: str | None = string_column(128)
    placer_universal_id: str | None = string_column(128)
    placer_universal_id_type: str | None = string_column(32)
    filler_order_number: str | None = string_column(128, index=True)
    filler_namespace: str | None = string_column(128)
    filler_universal_id: str | None = string_column(128)
    filler_universal_id_type: str | None = string_column(32)
    accession_number: str | None = string_column(64, index=True)
    issuer_of_accession_number: str | None = string_column(128)
    status: str = string_column(16, nullable=False)
    attributes: dict[str, Any] = json_column()
    sources: dict[str, str] = json_column()
    sending_application: str = string_column(200, nullable=False)
    sending_facility: str = string_column(200, nullable=False)
    last_event_at: datetime | None = instant_column(nullable=True)
    created_at: datetime = instant_column()
    updated_at: datetime = instant_column()


class ProcedureRow(SQLModel, table=True):
    """A requested procedure."""

    __tablename__ = "requested_procedure"
    __table_args__ = (UniqueConstraint("order", "requested_procedure_id"),)
    id: int | None = id_column()
    order: int = reference_column("imaging_order.id")
    requested_procedure_id: str = string_column(64, nullable=False)
    study_instance_uid: str = string_column(64, nullable=False, index=True)
    attributes: dict[str, Any] = json_column()
    sources: dict[str, str] = json_column()


class StepRow(SQLModel, table=True):
    """A scheduled procedure step, with the columns C-FIND narrows by copied next to it.

    The copies (patient, accession …) keep a worklist query on one table; whoever changes patient, order or
    procedure writes them again together with `elements` in the same transaction.
    """

    __tablename__ = "scheduled_procedure_step"
    __table_args__ = (
        UniqueConstraint("procedure", "scheduled_procedure_step_id"),
        Index("ix_step_offered_start", "offered", "start_date", "start_time"),
        # text_pattern_ops: prefixes use the index whatever the database's collation.
        Index(
            "ix_step_accession",
            "accession_number",
            postgresql_ops={"accession_number": "text_pattern_ops"},
        ),
        Index("ix_step_patient_id", "patient_id", postgresql_ops={"patient_id": "text_pattern_ops"}),
        Index("ix_step_name_key", "name_key", postgresql_ops={"name_key": "text_pattern_ops"}),
        # Names with ideographic or phonetic groups, which stand behind "=".
        Index(
            "ix_step_name_groups",
            "name_key",
            sqlite_where=text("instr(name_key, '=') > 0"),
            postgresql_where=text("strpos(name_key, '=') > 0"),
        ),
        Index("ix_step_status_changed", "status", "status_changed_at"),
        Index("ix_step_start", "start_date", "start_time"),
        # What waits for a person: in a status C-FIND answers, and not offered because something is missing.
        partial_index(
            "ix_step_incomplete", "order", holds="NOT offered AND status IN ('ARRIVED', 'READY', 'SCHEDULED')"
        ),
        Index("ix_step_study", "study_instance_uid"),
        Index("ix_step_modality_start", "offered", "modality", "start_date"),
        Index("ix_step_sps_id", "scheduled_procedure_step_id"),
    )
    id: int | None = id_column()
    procedure: int = reference_column("requested_procedure.id")
    order: int = reference_column("imaging_order.id")
    patient: int = reference_column("patient.id")
    scheduled_procedure_step_id: str = string_column(64, nullable=False)
    modality: str | None = string_column(16)
    station_ae_titles: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    start_date: str | None = string_column(8)
    start_time: str | None = string_column(16)
    time_unspecified: bool = False
    status: str = string_column(16, nullable=False)
    previous_status: str | None = string_column(16)
    status_changed_at: datetime = instant_column()
    offered: bool = False
    """Complete and in a status C-FIND answers by default (SCHEDULED, ARRIVED, READY)."""
    missing: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    priority_rank: int = 4
    patient_id: str = string_column(128, nullable=False)
    name_key: str = string_column(400, nullable=False)
    accession_number: str | None = string_column(64)
    requested_procedure_id: str = string_column(64, nullable=False)
    study_instance_uid: str = string_column(64, nullable=False)
    attributes: dict[str, Any] = json_column()
    sources: dict[str, str] = json_column()
    elements: bytes | None = bytes_column()
    """Pre-encoded worklist elements (StepEncoder port)."""
    revision: int = 0
    created_at: datetime = instant_column()
    updated_at: datetime = instant_column()


class StepStationRow(SQLModel, table=True):
    """One scheduled station AE title of a step: the index behind the commonest query of all."""

    __tablename__ = "step_station"
    __table_args__ = (
        UniqueConstraint("step", "ae_title"),
        Index("ix_step_station_ae", "ae_title", "offered", "start_date", "step"),
    )
    id: int | None = id_column()
    step: int = reference_column("scheduled_procedure_step.id")
    ae_title: str = string_column(16, nullable=False)
    """Upper case."""
    offered: bool = False
    start_date: str | None = string_column(8)
