"""Tells in SQL what is of a synthetic exam, as long as its rows are there: people act on and count patients' only."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, exists, literal_column, select

from broker.db.schema import PROBE_RUN

IS_OPEN = PROBE_RUN.c.state == literal_column("'OPEN'")


def of_patients(study_instance_uid: ColumnElement[Any]) -> ColumnElement[bool]:
    """Tell in SQL that a row is of no synthetic exam, by its study."""
    return ~exists().where(PROBE_RUN.c.study_instance_uid == study_instance_uid, IS_OPEN)


def is_synthetic(study_instance_uid: ColumnElement[Any]) -> ColumnElement[bool]:
    """Tell in SQL that a row is of a synthetic exam: found by its study, of which there is one or none."""
    return study_instance_uid.in_(select(PROBE_RUN.c.study_instance_uid).where(IS_OPEN))


def is_a_patient(patient_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Tell in SQL that a patient is not the one of a synthetic exam."""
    return ~exists().where(PROBE_RUN.c.patient_id == patient_id, IS_OPEN)
