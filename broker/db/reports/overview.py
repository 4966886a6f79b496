"""Counts and heartbeats for the overview."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, distinct, func, literal_column, select

from broker.db.delivery_states import in_state
from broker.db.reports.orders import INCOMPLETE_ORDERS
from broker.db.reports.reading import Reader, mappings
from broker.db.reports.synthetic import synthetic_of_the_day, synthetic_waiting
from broker.db.schema import (
    ADMISSION,
    ALERT,
    DELIVERY,
    HEARTBEAT,
    INSTANCE,
    KNOCK,
    MESSAGE,
    ORDER,
    SIGN,
    STEP,
    STUDY,
)
from broker.domain.alerts import AlertKind
from broker.domain.delivery import DeliveryState
from broker.domain.knocks import NEEDS_PERSON
from broker.domain.steps import StepStatus
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.overview_port import MOST_COUNTED, NeedsPerson
from broker.workflow.reports_port import DayCounts, RoleLine

_RAISED = ALERT.c.state == literal_column("'RAISED'")
_LOOKED_AT = 20_000
"""Images and refusals behind a badge are many per study and device; more of them are not looked at."""


class OverviewReports(Reader):
    """Implements the overview part of the Reports port."""

    def roles(self) -> Sequence[RoleLine]:
        """Answer the heartbeats, by role."""
        with self._reading() as connection:
            rows = mappings(
                connection,
                select(HEARTBEAT).order_by(HEARTBEAT.c.role, HEARTBEAT.c.host, HEARTBEAT.c.pid).limit(1000),
            )
        names = ("role", "host", "pid", "started_at", "beat_at", "details")
        return [RoleLine(**{name: row[name] for name in names}) for row in rows]

    def day(self, *, since: datetime) -> DayCounts:
        """Count what happened since `since`, a midnight in the site's zone; what waits for a person, of any day."""
        refused = MESSAGE.c.outcome.in_([MessageOutcome.REFUSED.value, MessageOutcome.FAILED.value])
        counts: dict[str, Any] = {
            "messages": _count(MESSAGE, MESSAGE.c.received_at >= since),
            "orders": _count(ORDER, ORDER.c.created_at >= since),
            "scheduled": _count(
                STEP, STEP.c.offered.is_(True), STEP.c.start_date == since.strftime("%Y%m%d")
            ),
            "in_progress": _count(STEP, STEP.c.status == StepStatus.STARTED.value),
            "completed": _count(
                STEP, STEP.c.status == StepStatus.COMPLETED.value, STEP.c.status_changed_at >= since
            ),
            "instances": _count(INSTANCE, INSTANCE.c.received_at >= since),
            "studies": _count(STUDY, STUDY.c.received_at >= since),
            "deliveries": _count(DELIVERY, DELIVERY.c.created_at >= since),
            "delivered": _count(DELIVERY, in_state(DeliveryState.DELIVERED), DELIVERY.c.updated_at >= since),
            "refused_messages": _count(MESSAGE, refused, MESSAGE.c.received_at >= since),
            "parked_messages": _count(MESSAGE, MESSAGE.c.outcome == MessageOutcome.PARKED.value),
            "incomplete_orders": select(func.count(distinct(INCOMPLETE_ORDERS.subquery().c.order))),
            "dead_deliveries": _count(DELIVERY, in_state(DeliveryState.DEAD)),
            "unrouted_studies": select(func.count(distinct(INSTANCE.c.study_instance_uid))).where(
                INSTANCE.c.state == literal_column("'UNROUTED'")
            ),
        }
        with self._reading() as connection:
            row = mappings(
                connection, select(*(count.scalar_subquery().label(name) for name, count in counts.items()))
            )[0]
            synthetic = synthetic_of_the_day(connection, since=since)
        return DayCounts(**{name: number - synthetic.get(name, 0) for name, number in row.items()})

    def needs_person(self, *, refused_since: datetime) -> NeedsPerson:
        """Count what waits for a person; devices by their refusals since an instant."""
        enough = MOST_COUNTED + 1
        parked = MESSAGE.c.outcome == MessageOutcome.PARKED.value
        incomplete = INCOMPLETE_ORDERS.limit(enough).subquery()
        unrouted = select(INSTANCE.c.study_instance_uid).where(
            INSTANCE.c.state == literal_column("'UNROUTED'")
        )
        # Who was served since, or is let in for a time, needs nobody any more.
        served = select(SIGN.c.id).where(SIGN.c.ae_title == KNOCK.c.ae_title, SIGN.c.at > KNOCK.c.last_at)
        guest = select(ADMISSION.c.id).where(
            ADMISSION.c.ae_title == KNOCK.c.ae_title, ADMISSION.c.ended_at.is_(None)
        )
        refused = select(KNOCK.c.ae_title).where(
            KNOCK.c.last_at >= refused_since,
            KNOCK.c.reason.in_([reason.value for reason in NEEDS_PERSON]),
            ~served.exists(),
            ~guest.exists(),
        )
        counts: dict[str, Any] = {
            "dead_deliveries": _rows(select(DELIVERY.c.id).where(in_state(DeliveryState.DEAD)).limit(enough)),
            "parked_messages": _rows(select(MESSAGE.c.id).where(parked).limit(enough)),
            "incomplete_orders": select(func.count(distinct(incomplete.c.order))),
            "unrouted_studies": _different(unrouted.limit(_LOOKED_AT), "study_instance_uid"),
            "refused_devices": _different(refused.limit(_LOOKED_AT), "ae_title"),
            "silent_sources": _count(ALERT, ALERT.c.kind == AlertKind.SILENT.value, _RAISED),
        }
        with self._reading() as connection:
            row = mappings(
                connection, select(*(count.scalar_subquery().label(name) for name, count in counts.items()))
            )[0]
            synthetic = synthetic_waiting(connection)
        return NeedsPerson(**{name: max(0, count - synthetic.get(name, 0)) for name, count in row.items()})


def _rows(statement: Select[Any]) -> Any:
    return select(func.count()).select_from(statement.subquery())


def _different(statement: Select[Any], column: str) -> Any:
    return select(func.count(distinct(statement.subquery().c[column])))


def _count(table: Table, *conditions: ColumnElement[bool]) -> Any:
    return select(func.count()).select_from(table).where(*conditions)
