"""Counts for monitoring: each a bounded statement over an index, of a span that ends now."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, literal_column, select

from broker.db.delivery_states import GROUPED_DESTINATION, OPEN_STATES, in_state
from broker.db.reports.reading import Reader
from broker.db.schema import DELIVERY, EVENT, INSTANCE, KNOCK, MESSAGE, ORDER
from broker.domain.delivery import DeliveryState
from broker.domain.events import EventName
from broker.domain.knocks import KnockReason
from broker.workflow.metrics_port import Numbers
from broker.workflow.probe_port import PROBE

_EVENTS_LOOKED_AT = 20_000
_DELIVERIES_LOOKED_AT = 5_000
_TRIES = (EventName.DELIVERY_RETRY, EventName.DELIVERY_DIED)
_EXAMS = (
    EventName.MPPS_CREATED,
    EventName.MPPS_FINISHED,
    EventName.MPPS_UNMATCHED,
    EventName.MPPS_PATIENT_MISMATCH,
)


class MetricReports(Reader):
    """Implements the MetricReports port."""

    def numbers(self, *, since: datetime) -> Numbers:
        """Count what happened since an instant, and what waits now."""
        with self._reading() as connection:
            instances, received_bytes = connection.execute(
                select(func.count(), func.coalesce(func.sum(INSTANCE.c.size_bytes), 0)).where(
                    INSTANCE.c.received_at >= since
                )
            ).one()
            return Numbers(
                messages=_grouped(connection, MESSAGE.c.outcome, MESSAGE.c.received_at >= since),
                orders=_grouped(connection, ORDER.c.status, ORDER.c.updated_at >= since),
                queries=Counter(_actors(connection, EventName.WORKLIST_QUERIED, since)),
                exams={name.value: len(_actors(connection, name, since)) for name in _EXAMS},
                instances=int(instances),
                received_bytes=int(received_bytes),
                deliveries=_not_done(connection),
                delivered=_counts(
                    connection,
                    select(GROUPED_DESTINATION, func.count())
                    .where(in_state(DeliveryState.DELIVERED), DELIVERY.c.updated_at >= since)
                    .group_by(GROUPED_DESTINATION),
                ),
                seconds=_seconds(connection, since),
                failures=_failures(connection, since),
                knocks=_knocks(connection, since),
            )


def _counts(connection: Connection, statement: Select[*tuple[Any, ...]]) -> dict[str, int]:
    return {str(name): int(number) for name, number in connection.execute(statement)}


def _grouped(
    connection: Connection, column: ColumnElement[str], since: ColumnElement[bool]
) -> dict[str, int]:
    # As an expression, for SQLite would walk through all rows where an index has the order of the groups.
    name = column.concat(literal_column("''"))
    return _counts(connection, select(name, func.count()).where(since).group_by(name))


def _actors(connection: Connection, name: EventName, since: datetime) -> Sequence[str]:
    """Answer whose events of a name there were, each as often as there were some."""
    its = select(EVENT.c.actor).where(EVENT.c.name == name.value, EVENT.c.at >= since, EVENT.c.actor != PROBE)
    return connection.execute(its.limit(_EVENTS_LOOKED_AT)).scalars().all()


def _not_done(connection: Connection) -> Mapping[tuple[str, str], int]:
    states: Counter[tuple[str, str]] = Counter()
    for state in (*OPEN_STATES, DeliveryState.DEAD):  # each has an index of its own
        its = select(GROUPED_DESTINATION, func.count()).where(in_state(state)).group_by(GROUPED_DESTINATION)
        for name, number in _counts(connection, its).items():
            states[name, state.value] += number
    return dict(states)


def _seconds(connection: Connection, since: datetime) -> Mapping[str, Sequence[float]]:
    newest = (
        select(DELIVERY.c.destination, DELIVERY.c.created_at, DELIVERY.c.updated_at)
        .where(in_state(DeliveryState.DELIVERED), DELIVERY.c.updated_at >= since)
        .order_by(DELIVERY.c.updated_at.desc())
        .limit(_DELIVERIES_LOOKED_AT)
    )
    found: dict[str, list[float]] = defaultdict(list)
    for name, planned, done in connection.execute(newest):
        found[name].append((done - planned).total_seconds())
    return found


def _failures(connection: Connection, since: datetime) -> Mapping[tuple[str, str], int]:
    failures: Counter[tuple[str, str]] = Counter()
    for event in _TRIES:
        its = select(EVENT.c.details).where(EVENT.c.name == event.value, EVENT.c.at >= since)
        for details in connection.execute(its.limit(_EVENTS_LOOKED_AT)).scalars():
            failures[str(details.get("destination")), str(details.get("failure_class"))] += 1
    return dict(failures)


def _knocks(connection: Connection, since: datetime) -> Mapping[str, int]:
    found = _grouped(connection, KNOCK.c.reason, KNOCK.c.last_at >= since)
    return {reason.value: found.get(reason.value, 0) for reason in KnockReason}
