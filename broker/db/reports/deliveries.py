"""Lists deliveries and their destinations for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, false, func, literal_column, select

from broker.db.delivery_filters import selected
from broker.db.delivery_states import (
    GROUPED_DESTINATION,
    OPEN_STATES,
    in_state,
    listed_by,
    listed_in_state,
    narrowed,
)
from broker.db.reports.reading import FIRST_PAGE, Reader, mappings, paged
from broker.db.schema import DELIVERY, DESTINATION
from broker.db.synthetic import of_patients
from broker.domain.delivery import DeliveryState
from broker.errors import NotFound
from broker.workflow.destinations_port import DestinationHealth
from broker.workflow.probe_port import PROBE_DESTINATION
from broker.workflow.reports_port import MOST_ROWS, DeliveryLine, DestinationLine, Page
from broker.workflow.selection import Selection

DRAINING = "draining"
IS_STAT = DELIVERY.c.priority <= literal_column("1")
"""Written out, so that SQLite can use the index of these alone."""

_COLUMNS = select(
    DELIVERY.c.id,
    DELIVERY.c.destination,
    DELIVERY.c.kind,
    DELIVERY.c.route,
    DELIVERY.c.unit,
    DELIVERY.c.state,
    DELIVERY.c.attempt,
    DELIVERY.c.failures,
    DELIVERY.c.due_at,
    DELIVERY.c.reason,
    DELIVERY.c.study_instance_uid,
    DELIVERY.c["items"].label("item_count"),
    DELIVERY.c.items_delivered,
    DELIVERY.c.items_rejected,
    DELIVERY.c.created_at,
    DELIVERY.c.updated_at,
    DELIVERY.c.cause,
    DELIVERY.c.priority,
    DELIVERY.c.operation,
)


class DeliveryReports(Reader):
    """Implements the deliveries part of the Reports port."""

    def deliveries(
        self,
        *,
        state: str | None = None,
        destination: str | None = None,
        study_instance_uid: str | None = None,
        page: Page = FIRST_PAGE,
    ) -> Sequence[DeliveryLine]:
        """List deliveries, newest first."""
        statement, wanted = _COLUMNS, DeliveryState.__members__.get((state or "").strip().upper())
        if state:
            statement = statement.where(false() if wanted is None else listed_in_state(wanted))
        if destination:
            statement = statement.where(narrowed(DELIVERY.c.destination, destination, wanted))
        if study_instance_uid:
            statement = statement.where(DELIVERY.c.study_instance_uid == study_instance_uid)
        else:
            statement = statement.where(of_patients(DELIVERY.c.study_instance_uid))
        with self._reading() as connection:
            return [
                _line(row)
                for row in mappings(connection, paged(statement.order_by(listed_by(wanted).desc()), page))
            ]

    def select_deliveries(
        self, selection: Selection, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> Sequence[DeliveryLine]:
        """List what a selection means, newest first: those planned before an id, or those just after one."""
        statement = _COLUMNS.where(*selected(selection)).limit(min(limit, MOST_ROWS))
        if after is not None:
            statement = statement.where(DELIVERY.c.id > after).order_by(listed_by(selection.state))
        else:
            statement = statement.order_by(listed_by(selection.state).desc())
            if before is not None:
                statement = statement.where(DELIVERY.c.id < before)
        with self._reading() as connection:
            lines = [_line(row) for row in mappings(connection, statement)]
        return lines if after is None else lines[::-1]

    def delivery(self, delivery_id: int) -> DeliveryLine:
        """Answer one. Raises NotFound."""
        with self._reading() as connection:
            found = mappings(connection, _COLUMNS.where(DELIVERY.c.id == delivery_id))
        if not found:
            raise NotFound("There is no such delivery.")
        return _line(found[0])

    def destinations(self, *, now: datetime) -> Sequence[DestinationLine]:
        """Answer every destination that is configured, has a state or has a delivery, by name."""
        with self._reading() as connection:
            states = {row["name"]: row for row in mappings(connection, select(DESTINATION))}
            names = sorted(
                {*self._destinations, *states, *_with_deliveries(connection)} - {PROBE_DESTINATION}
            )
            waiting: dict[str, int] = {}
            oldest: dict[str, int] = {}
            for state in OPEN_STATES:
                for row in mappings(connection, _count(state)):
                    name = row["destination"]
                    waiting[name] = waiting.get(name, 0) + row["number"]
                    oldest[name] = min(oldest.get(name, row["first"]), row["first"])
            created = _created_at(connection, list(oldest.values()))
            dead = _numbers(connection, _count(DeliveryState.DEAD))
            stat_dead = _numbers(connection, _count(DeliveryState.DEAD).where(IS_STAT))
            lately = _count(DeliveryState.DELIVERED).where(DELIVERY.c.updated_at >= now - timedelta(hours=1))
            delivered = _numbers(connection, lately)
        lines = []
        for name in names:
            known = states.get(name)
            lines.append(
                DestinationLine(
                    destination=name,
                    state=_state(known),
                    reason=known["reason"] if known else None,
                    waiting=waiting.get(name, 0),
                    oldest=created[oldest[name]] if name in oldest else None,
                    dead=dead.get(name, 0),
                    delivered_last_hour=delivered.get(name, 0),
                    last_success_at=known["last_success_at"] if known else None,
                    since=known["since"] if known else None,
                    held_by=known["held_by"] if known else None,
                    resume_at=known["resume_at"] if known else None,
                    probe_at=known["open_until"] if known else None,
                    stat_dead=stat_dead.get(name, 0),
                )
            )
        return lines


def _state(known: RowMapping | None) -> str:
    """Say how a destination is; draining is a state of its own for people, beside its health."""
    if known is None:
        return DestinationHealth.UP.value
    is_open = known["state"] == DestinationHealth.UP.value
    return DRAINING if is_open and known["drain_to"] is not None else str(known["state"])


def _count(state: DeliveryState) -> Select[str, int, Any]:
    return (
        select(
            GROUPED_DESTINATION.label("destination"),
            func.count().label("number"),
            func.min(DELIVERY.c.id).label("first"),
        )
        .where(in_state(state))
        .group_by(GROUPED_DESTINATION)
    )


def _numbers(connection: Connection, statement: Select[str, int, Any]) -> dict[str, int]:
    return {row["destination"]: row["number"] for row in mappings(connection, statement)}


def _created_at(connection: Connection, ids: list[int]) -> dict[int, datetime]:
    statement = select(DELIVERY.c.id, DELIVERY.c.created_at).where(DELIVERY.c.id.in_(ids))
    return {row["id"]: row["created_at"] for row in mappings(connection, statement)}


def _with_deliveries(connection: Connection) -> list[str]:
    """Hop from destination to destination in the index; their number counts, not that of deliveries."""
    names: list[str] = []
    while True:
        after = names[-1] if names else ""
        name = connection.execute(
            select(func.min(DELIVERY.c.destination)).where(DELIVERY.c.destination > after)
        ).scalar_one()
        if name is None:
            return names
        names.append(str(name))


def _line(row: Any) -> DeliveryLine:
    return DeliveryLine(
        id=row["id"],
        destination=row["destination"],
        kind=row["kind"],
        route=row["route"],
        unit=row["unit"],
        state=row["state"],
        attempt=row["attempt"],
        failures=row["failures"],
        due_at=row["due_at"],
        reason=row["reason"],
        study_instance_uid=row["study_instance_uid"],
        items=row["item_count"],
        delivered=row["items_delivered"],
        rejected=row["items_rejected"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        cause=row["cause"],
        priority=row["priority"],
        operation=row["operation"],
    )
