"""Leaves synthetic exams out of what people count and list, as long as their rows are there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, exists, func, literal_column, select

from broker.db.delivery_states import in_state
from broker.db.schema import DELIVERY, INSTANCE, MESSAGE, ORDER, PATIENT, PROBE_RUN, STEP, STUDY
from broker.domain.delivery import DeliveryState
from broker.domain.steps import StepStatus
from broker.workflow.probe_port import PROBE

IS_OPEN = PROBE_RUN.c.state == literal_column("'OPEN'")


def of_patients(study_instance_uid: ColumnElement[Any]) -> ColumnElement[bool]:
    """Tell in SQL that a row is of no synthetic exam, by its study."""
    return ~exists().where(PROBE_RUN.c.study_instance_uid == study_instance_uid, IS_OPEN)


def is_a_patient(patient_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Tell in SQL that a patient is not the one of a synthetic exam."""
    return ~exists().where(PROBE_RUN.c.patient_id == patient_id, IS_OPEN)


def synthetic_of_the_day(connection: Connection, *, since: datetime) -> Mapping[str, int]:
    """Count what synthetic exams add to the counts of a day; usually there is none, and that is one small read."""
    open_runs = connection.execute(
        select(PROBE_RUN.c.study_instance_uid, PROBE_RUN.c.patient_id).where(IS_OPEN)
    ).all()
    if not open_runs:
        return {}
    studies = [run.study_instance_uid for run in open_runs]
    patients = select(PATIENT.c.id).where(PATIENT.c.patient_id.in_([run.patient_id for run in open_runs]))
    steps, deliveries = STEP.c.study_instance_uid.in_(studies), DELIVERY.c.study_instance_uid.in_(studies)
    counts: dict[str, Any] = {
        "messages": _count(MESSAGE, MESSAGE.c.sending_application == PROBE, MESSAGE.c.received_at >= since),
        "orders": _count(ORDER, ORDER.c.patient.in_(patients), ORDER.c.created_at >= since),
        "scheduled": _count(
            STEP, steps, STEP.c.offered.is_(True), STEP.c.start_date == since.strftime("%Y%m%d")
        ),
        "in_progress": _count(STEP, steps, STEP.c.status == StepStatus.STARTED.value),
        "completed": _count(
            STEP,
            steps,
            STEP.c.status == StepStatus.COMPLETED.value,
            STEP.c.status_changed_at >= since,
        ),
        "instances": _count(
            INSTANCE, INSTANCE.c.study_instance_uid.in_(studies), INSTANCE.c.received_at >= since
        ),
        "studies": _count(STUDY, STUDY.c.study_instance_uid.in_(studies), STUDY.c.received_at >= since),
        "deliveries": _count(DELIVERY, deliveries, DELIVERY.c.created_at >= since),
        "delivered": _count(
            DELIVERY, deliveries, in_state(DeliveryState.DELIVERED), DELIVERY.c.updated_at >= since
        ),
    }
    row = connection.execute(
        select(*(count.scalar_subquery().label(name) for name, count in counts.items()))
    ).mappings()
    return {name: int(number) for name, number in row.one().items()}


def _count(table: Table, *conditions: ColumnElement[bool]) -> Any:
    return select(func.count()).select_from(table).where(*conditions)
