"""Table of synthetic exams: which studies are none of a patient, and what became of each."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Column, String
from sqlmodel import Field, SQLModel

from broker.db.columns import Json, id_column, instant_column, partial_index, string_column


class ProbeRunRow(SQLModel, table=True):
    """One synthetic exam. Written before its order is sent, so that nothing of it is ever taken for a patient's."""

    __tablename__ = "probe_run"
    __table_args__ = (
        # What the worklist leaves out: the exams whose rows are still there, one or none as a rule.
        partial_index("ix_probe_run_open", "study_instance_uid", holds="state = 'OPEN'"),
    )
    id: int | None = id_column()
    study_instance_uid: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    patient_id: str = string_column(64, nullable=False)
    state: str = string_column(8, nullable=False)
    """OPEN while rows of it are there, then CLEARED."""
    actor: str = string_column(128, nullable=False)
    started_at: datetime = instant_column(index=True)
    ended_at: datetime | None = instant_column(nullable=True)
    failed_hop: str | None = string_column(32)
    """None at its end: every hop held."""
    hops: list[Any] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
