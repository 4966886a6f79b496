"""Takes synthetic exams out of the counts of a day, as long as their rows are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, distinct, func, select

from broker.db.delivery_states import in_state
from broker.db.reports.orders import INCOMPLETE_ORDERS
from broker.db.schema import DELIVERY, INSTANCE, MESSAGE, ORDER, PATIENT, PROBE_RUN, STEP, STUDY
from broker.db.synthetic import IS_OPEN
from broker.domain.delivery import DeliveryState
from broker.domain.steps import StepStatus
from broker.workflow.images_port import InstanceState
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.probe_port import PROBE


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
    counts |= _waiting(studies)
    row = connection.execute(
        select(*(count.scalar_subquery().label(name) for name, count in counts.items()))
    ).mappings()
    return {name: int(number) for name, number in row.one().items()}


def synthetic_waiting(connection: Connection) -> Mapping[str, int]:
    """Count what of synthetic exams looks as if it needed a person; usually that is one small read."""
    studies = list(connection.execute(select(PROBE_RUN.c.study_instance_uid).where(IS_OPEN)).scalars())
    if not studies:
        return {}
    counts = _waiting(studies)
    row = connection.execute(
        select(*(count.scalar_subquery().label(name) for name, count in counts.items()))
    ).mappings()
    return {name: int(number) for name, number in row.one().items()}


def _waiting(studies: Sequence[str]) -> dict[str, Any]:
    incomplete = INCOMPLETE_ORDERS.where(STEP.c.study_instance_uid.in_(studies)).subquery()
    dead, unrouted = in_state(DeliveryState.DEAD), INSTANCE.c.state == InstanceState.UNROUTED.value
    parked = MESSAGE.c.outcome == MessageOutcome.PARKED.value
    return {
        "parked_messages": _count(MESSAGE, parked, MESSAGE.c.sending_application == PROBE),
        "incomplete_orders": select(func.count(distinct(incomplete.c.order))),
        "dead_deliveries": _count(DELIVERY, dead, DELIVERY.c.study_instance_uid.in_(studies)),
        "unrouted_studies": select(func.count(distinct(INSTANCE.c.study_instance_uid))).where(
            INSTANCE.c.study_instance_uid.in_(studies), unrouted
        ),
    }


def _count(table: Table, *conditions: ColumnElement[bool]) -> Any:
    return select(func.count()).select_from(table).where(*conditions)
