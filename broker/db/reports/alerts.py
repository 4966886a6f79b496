"""Lists alerts, what was told of them, and maintenance windows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, case, func, select

from broker.db.delivery_states import in_state
from broker.db.reports.reading import Reader, mappings
from broker.db.repositories.alerts import OPEN_ALERTS, alert_of, maintenance_of
from broker.db.schema import ALERT, ALERT_NOTICE, DELIVERY, MAINTENANCE
from broker.domain.alerts import Alert, AlertState, Maintenance, Notice
from broker.domain.delivery import DeliveryState
from broker.errors import NotFound
from broker.workflow.alerts_port import NoticeLine, Overdue, StoredNotice
from broker.workflow.reports_port import MAX_PAGE, MOST_ROWS

_MOST_WINDOWS = 200
_STAT = 1


class SqlAlertReports(Reader):
    """Implements the AlertReports port."""

    def open_alerts(self) -> Sequence[Alert]:
        """Answer what is pending or raised, the worst first; at most 500."""
        with self._reading() as connection:
            alerts = [alert_of(row) for row in mappings(connection, OPEN_ALERTS)]
        return sorted(alerts, key=lambda one: (one.severity.rank, one.id))[:MAX_PAGE]

    def recent_alerts(self, *, before: int | None = None, limit: int = 50) -> Sequence[Alert]:
        """Answer those that have recovered, newest first; `before` is the id of the last one seen."""
        statement = select(ALERT).where(ALERT.c.state == AlertState.RECOVERED.value)
        if before is not None:
            statement = statement.where(ALERT.c.id < before)
        statement = statement.order_by(ALERT.c.id.desc()).limit(max(0, min(limit, MOST_ROWS)))
        with self._reading() as connection:
            return [alert_of(row) for row in mappings(connection, statement)]

    def alert(self, alert_id: int) -> Alert:
        """Answer one. Raises NotFound."""
        with self._reading() as connection:
            rows = mappings(connection, select(ALERT).where(ALERT.c.id == alert_id))
        if not rows:
            raise NotFound("There is no such alert.")
        return alert_of(rows[0])

    def notices(self, alert_ids: Sequence[int]) -> dict[int, Sequence[NoticeLine]]:
        """Answer what was told about alerts, oldest first."""
        statement = (
            select(ALERT_NOTICE)
            .where(ALERT_NOTICE.c.alert.in_(alert_ids[:MOST_ROWS]))
            .order_by(ALERT_NOTICE.c.id)
            .limit(10 * MAX_PAGE)
        )
        with self._reading() as connection:
            rows = mappings(connection, statement)
        names = ("id", "channel", "notice", "state", "attempts", "said", "created_at", "settled_at")
        found: dict[int, list[NoticeLine]] = {}
        for row in rows:
            found.setdefault(row["alert"], []).append(NoticeLine(**{name: row[name] for name in names}))
        return {**found}

    def due_notices(self, *, now: datetime, limit: int = 200) -> Sequence[StoredNotice]:
        """Answer what is to be carried now, oldest first."""
        own = (
            ALERT_NOTICE.c.id.label("notice_id"),
            ALERT_NOTICE.c.channel,
            ALERT_NOTICE.c.notice,
            ALERT_NOTICE.c.attempts,
            ALERT_NOTICE.c.due_at,
            ALERT_NOTICE.c.created_at,
        )
        statement = (
            select(*own, ALERT)
            .join(ALERT, ALERT.c.id == ALERT_NOTICE.c.alert)
            .where(ALERT_NOTICE.c.state == "WAITING", ALERT_NOTICE.c.due_at <= now)
            .order_by(ALERT_NOTICE.c.due_at, ALERT_NOTICE.c.id)
            .limit(limit)
        )
        with self._reading() as connection:
            rows = mappings(connection, statement)
        return [
            StoredNotice(
                id=row["notice_id"],
                channel=row["channel"],
                notice=Notice(row["notice"]),
                alert=alert_of(row),
                attempts=row["attempts"],
                due_at=row["due_at"],
                created_at=row["created_at"],
            )
            for row in rows
        ]

    def maintenance_windows(self, *, now: datetime) -> Sequence[Maintenance]:
        """Answer those that are not over, by their beginning; at most 200."""
        statement = (
            select(MAINTENANCE)
            .where(MAINTENANCE.c.ended_at.is_(None), MAINTENANCE.c.ends_at > now)
            .order_by(MAINTENANCE.c.starts_at, MAINTENANCE.c.id)
            .limit(_MOST_WINDOWS)
        )
        with self._reading() as connection:
            return [maintenance_of(row) for row in mappings(connection, statement)]

    def overdue(self) -> Sequence[Overdue]:
        """Answer since when what could be sent waits, by destination."""
        # From its first try on, or from when it stopped waiting for more images: tries move `due_at`.
        never_tried: ColumnElement[datetime] = case((DELIVERY.c.attempt == 0, DELIVERY.c.due_at))
        since = func.coalesce(DELIVERY.c.first_sent_at, never_tried, DELIVERY.c.created_at)
        urgent = DELIVERY.c.priority <= _STAT
        found: dict[str, Overdue] = {}
        with self._reading() as connection:
            for state in (DeliveryState.PENDING, DeliveryState.IN_PROGRESS):  # each has an index of its own
                rows = mappings(
                    connection,
                    select(
                        DELIVERY.c.destination,
                        func.count().label("waiting"),
                        func.min(since).label("oldest"),
                        func.count(case((urgent, 1))).label("urgent"),
                        func.min(case((urgent, since))).label("oldest_urgent"),
                    )
                    .where(in_state(state))
                    .group_by(DELIVERY.c.destination),
                )
                for row in rows:
                    one = Overdue(**row)
                    known = found.get(one.destination)
                    found[one.destination] = one if known is None else _both(known, one)
        return [found[name] for name in sorted(found)]


def _both(one: Overdue, other: Overdue) -> Overdue:
    urgent = [at for at in (one.oldest_urgent, other.oldest_urgent) if at is not None]
    return Overdue(
        one.destination,
        one.waiting + other.waiting,
        min(one.oldest, other.oldest),
        one.urgent + other.urgent,
        min(urgent, default=None),
    )
