"""What one destination has done lately: its rate, its speed, what went wrong, and what was said on the wire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Integer, cast, func, select

from broker.db.delivery_states import in_state
from broker.db.reports.reading import Reader, mappings
from broker.db.schema import DELIVERY, DESTINATION, EVENT
from broker.domain.causes import Cause, cause_of
from broker.domain.delivery import DeliveryState
from broker.domain.events import EventName, Subject
from broker.workflow.delivery_reports import AttemptLine, CheckLine, FailureLine, RateBin, Speed

SPEED_OVER = 200
"""Deliveries a speed is measured by."""
MAX_FAILURES = 5_000
"""Tries looked at for the causes of a day."""
_TRIED = tuple(
    name.value
    for name in (
        EventName.DELIVERY_DELIVERED,
        EventName.DELIVERY_PROGRESSED,
        EventName.DELIVERY_RETRY,
        EventName.DELIVERY_DIED,
        EventName.DELIVERY_LEASE_EXPIRED,
    )
)
_FAILED = (EventName.DELIVERY_RETRY.value, EventName.DELIVERY_DIED.value)


class DestinationReports(Reader):
    """Implements the part of the DeliveryReports port that is about one destination."""

    def speed(self, destination: str) -> Speed | None:
        """Answer how fast a destination was lately; None when nothing was delivered."""
        statement = (
            select(DELIVERY.c.first_sent_at, DELIVERY.c.updated_at, DELIVERY.c.items_delivered)
            .where(
                in_state(DeliveryState.DELIVERED),
                DELIVERY.c.destination == destination,
                DELIVERY.c.attempt == 1,  # a wait between two tries says nothing of the speed
                DELIVERY.c.first_sent_at.is_not(None),
            )
            .order_by(DELIVERY.c.id.desc())
            .limit(SPEED_OVER)
        )
        with self._reading() as connection:
            rows = mappings(connection, statement)
        if not rows:
            return None
        seconds = sum((row["updated_at"] - row["first_sent_at"]).total_seconds() for row in rows)
        images = sum(row["items_delivered"] for row in rows)
        # A delivery that takes no measurable time takes a millisecond.
        seconds = max(seconds, 0.001 * len(rows))
        return Speed(len(rows), seconds / len(rows), seconds / images if images else None)

    def rate(self, destination: str, *, since: datetime, bin_s: int) -> Sequence[RateBin]:
        """Answer what was delivered in each bin since an instant; bins without anything are left out."""
        with self._reading() as connection:
            number = _bin(connection, bin_s)
            rows = mappings(
                connection,
                select(
                    number.label("bin"),
                    func.count().label("deliveries"),
                    func.coalesce(func.sum(DELIVERY.c.items_delivered), 0).label("images"),
                )
                .where(
                    in_state(DeliveryState.DELIVERED),
                    DELIVERY.c.updated_at >= since,
                    DELIVERY.c.destination == destination,
                )
                .group_by(number)
                .order_by(number),
            )
        return [
            RateBin(
                datetime.fromtimestamp(row["bin"] * bin_s, UTC), int(row["deliveries"]), int(row["images"])
            )
            for row in rows
        ]

    def failures(self, destination: str, *, since: datetime) -> Sequence[FailureLine]:
        """Group the tries that failed since an instant by cause, the commonest first."""
        rows: list[Any] = []
        with self._reading() as connection:
            for name in _FAILED:
                newest = (
                    select(EVENT.c.at, EVENT.c.details)
                    .where(EVENT.c.name == name, EVENT.c.at >= since)
                    .order_by(EVENT.c.at.desc())
                    .limit(MAX_FAILURES)
                    .subquery()
                )
                its = newest.c.details["destination"].as_string() == destination
                reason = newest.c.details["reason"].as_string()
                rows += mappings(
                    connection,
                    select(
                        reason.label("reason"),
                        func.count().label("tries"),
                        func.max(newest.c.at).label("last"),
                    )
                    .where(its)
                    .group_by(reason),
                )
        groups: dict[Cause, tuple[int, datetime, str]] = {}
        for row in rows:
            text = row["reason"] or ""
            cause = cause_of(text)
            tries, last, example = groups.get(cause, (0, row["last"], text))
            newer = row["last"] >= last
            groups[cause] = (
                tries + row["tries"],
                max(last, row["last"]),
                text if newer else example,
            )
        lines = [
            FailureLine(cause.name, cause.title, tries, last, example)
            for cause, (tries, last, example) in groups.items()
        ]
        return sorted(lines, key=lambda line: (-line.tries, line.cause))

    def conversation(self, destination: str, *, limit: int = 20) -> Sequence[AttemptLine]:
        """List the last tries, newest first."""
        limit = min(limit, 100)
        newest = (
            select(DELIVERY.c.id)
            .where(DELIVERY.c.destination == destination, DELIVERY.c.attempt > 0)
            .order_by(DELIVERY.c.id.desc())
            .limit(limit)
        )
        # What has been tried for long is older than what came since.
        waiting = (
            select(DELIVERY.c.id)
            .where(
                DELIVERY.c.destination == destination,
                in_state(DeliveryState.PENDING),
                DELIVERY.c.attempt > 0,
            )
            .order_by(DELIVERY.c.priority, DELIVERY.c.due_at, DELIVERY.c.id)
            .limit(limit)
        )
        with self._reading() as connection:
            ids = {int(key) for one in (newest, waiting) for key in connection.execute(one).scalars()}
            rows = mappings(
                connection,
                select(EVENT)
                .where(
                    EVENT.c.subject == Subject.DELIVERY.value,
                    EVENT.c.subject_id.in_(ids),
                    EVENT.c.name.in_(_TRIED),
                )
                .order_by(EVENT.c.id.desc())
                .limit(limit),
            )
        return [_attempt(row) for row in rows]

    def last_check(self, destination: str) -> CheckLine | None:
        """Answer what the last test of a destination came to."""
        columns = select(DESTINATION.c.last_check_at, DESTINATION.c.last_check)
        with self._reading() as connection:
            rows = mappings(connection, columns.where(DESTINATION.c.name == destination))
        if not rows or rows[0]["last_check_at"] is None:
            return None
        return CheckLine(rows[0]["last_check_at"], json.loads(rows[0]["last_check"] or "{}"))


def _bin(connection: Connection, bin_s: int) -> ColumnElement[int]:
    if connection.dialect.name == "postgresql":
        return cast(func.floor(func.extract("epoch", DELIVERY.c.updated_at) / bin_s), BigInteger)
    return cast(func.strftime("%s", DELIVERY.c.updated_at), Integer).op("/", return_type=Integer())(bin_s)


def _attempt(row: Any) -> AttemptLine:
    details = row["details"]
    duration, sent, wire = details.get("duration_s"), details.get("sent"), details.get("wire")
    return AttemptLine(
        at=row["at"],
        delivery=row["subject_id"],
        outcome=row["name"],
        attempt=int(details.get("attempt") or 0),
        reason=details.get("reason"),
        duration_s=float(duration) if isinstance(duration, int | float) else None,
        sent=sent if isinstance(sent, int) else None,
        wire=tuple(str(part) for part in wire) if isinstance(wire, list) else (),
        study_instance_uid=row["study_instance_uid"],
    )
