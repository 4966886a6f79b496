"""Counts what happened in a shift, for those who take over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, select

from broker.db.delivery_states import in_state
from broker.db.reports.reading import Reader, mappings
from broker.db.schema import DELIVERY, DESTINATION, EVENT, INSTANCE, MESSAGE, ORDER, STEP, STUDY
from broker.domain.delivery import DeliveryState
from broker.domain.events import EventName
from broker.domain.steps import StepStatus
from broker.workflow.destinations_port import DestinationHealth
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.overview_port import HeldDestination, ShiftCounts

DEEDS = (
    *(name for name in EventName if name.value.endswith("by a person")),
    EventName.DESTINATION_PAUSED,
    EventName.DESTINATION_RESUMED,
    EventName.BACKUP_WRITTEN,
)
"""What a person may have done; what the broker did by itself bears its name as the actor."""
_OF_DESTINATIONS = (
    EventName.DESTINATION_FAILING,
    EventName.DESTINATION_RECOVERED,
    EventName.DESTINATION_PAUSED,
    EventName.DESTINATION_RESUMED,
)
_BY_ITSELF = "broker"
_MOST_EVENTS = 500
_MOST_REFUSALS = 5000


class ShiftReports(Reader):
    """Implements the handover's part of the Reports port."""

    def shift(self, *, since: datetime, until: datetime) -> ShiftCounts:
        """Count what happened in a span."""

        def within(column: ColumnElement[datetime]) -> ColumnElement[bool]:
            return column.between(since, until)

        with self._reading() as connection:
            return ShiftCounts(
                messages={
                    outcome.value: _count(
                        connection,
                        MESSAGE,
                        MESSAGE.c.outcome == outcome.value,
                        within(MESSAGE.c.received_at),
                    )
                    for outcome in MessageOutcome
                },
                orders=_count(connection, ORDER, within(ORDER.c.created_at)),
                completed=_count(
                    connection,
                    STEP,
                    STEP.c.status == StepStatus.COMPLETED.value,
                    within(STEP.c.status_changed_at),
                ),
                instances=_count(connection, INSTANCE, within(INSTANCE.c.received_at)),
                studies=_count(connection, STUDY, within(STUDY.c.received_at)),
                deliveries=_count(connection, DELIVERY, within(DELIVERY.c.created_at)),
                delivered=_count(
                    connection, DELIVERY, in_state(DeliveryState.DELIVERED), within(DELIVERY.c.updated_at)
                ),
                died=_count(
                    connection, EVENT, EVENT.c.name == EventName.DELIVERY_DIED.value, within(EVENT.c.at)
                ),
                destination_events=_of_destinations(connection, within(EVENT.c.at)),
                refused_devices=_refusals(connection, within(EVENT.c.at)),
                deeds=_deeds(connection, within(EVENT.c.at)),
            )

    def held_destinations(self) -> Sequence[HeldDestination]:
        """Answer the destinations that are not up, the longest held first."""
        held = (
            select(DESTINATION)
            .where(DESTINATION.c.state != DestinationHealth.UP.value)
            .order_by(DESTINATION.c.since)
        )
        with self._reading() as connection:
            return [
                HeldDestination(row["name"], row["state"], row["since"], row["reason"])
                for row in mappings(connection, held)
            ]


def _count(connection: Connection, table: Table, *conditions: ColumnElement[bool]) -> int:
    statement = select(func.count()).select_from(table).where(*conditions)
    return int(connection.execute(statement).scalar_one())


def _of_destinations(connection: Connection, within: ColumnElement[bool]) -> list[tuple[datetime, str, str]]:
    found: list[tuple[datetime, str, str]] = []
    for name in _OF_DESTINATIONS:
        rows = connection.execute(
            select(EVENT.c.at, EVENT.c.details)
            .where(EVENT.c.name == name.value, within)
            .order_by(EVENT.c.at.desc())
            .limit(_MOST_EVENTS)
        )
        found += [(row.at, name.value, str(row.details.get("destination", ""))) for row in rows]
    return sorted(found)[-_MOST_EVENTS:]


def _refusals(connection: Connection, within: ColumnElement[bool]) -> dict[str, int]:
    refused = EVENT.c.name == EventName.DEVICE_REFUSED.value
    rows = connection.execute(select(EVENT.c.actor).where(refused, within).limit(_MOST_REFUSALS))
    return dict(Counter(rows.scalars()).most_common())


def _deeds(connection: Connection, within: ColumnElement[bool]) -> list[tuple[str, str, int]]:
    deeds: list[tuple[str, str, int]] = []
    for name in DEEDS:
        rows: Any = connection.execute(
            select(EVENT.c.actor, func.count().label("number"))
            .where(EVENT.c.name == name.value, within, EVENT.c.actor != _BY_ITSELF)
            .group_by(EVENT.c.actor)
        )
        deeds += [(row.actor, name.value, row.number) for row in rows]
    return sorted(deeds)
