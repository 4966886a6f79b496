"""How destinations fare, how fast the disk fills, and who waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, case, func, literal_column, or_, select

from broker.db.delivery_states import GROUPED_DESTINATION, OPEN_STATES, in_state
from broker.db.reports.orders import INCOMPLETE_ORDERS
from broker.db.reports.reading import Reader, mappings
from broker.db.schema import DELIVERY, EVENT, MEASUREMENT, STEP, TRAFFIC_HOUR
from broker.db.traffic import IMAGE_BYTES
from broker.domain.delivery import DeliveryState
from broker.domain.events import EventName
from broker.domain.steps import StepStatus
from broker.workflow.overview_port import Storage, Trend, Urgent
from broker.workflow.probe_port import PROBE_DESTINATION

HOUR = timedelta(hours=1)
LATELY = timedelta(minutes=15)
WEEK = timedelta(days=7)
_STAT = 1
_FAILURES_LOOKED_AT = 5000
_WAITING_LOOKED_AT = 5000
_MOST_STEPS = 2000
_LOOKED_BACK = timedelta(hours=24)
_ARRIVED = (StepStatus.ARRIVED.value, StepStatus.READY.value)


class TrendReports(Reader):
    """Implements the trends part of the Reports port."""

    def trends(self, *, now: datetime, hours: int = 12) -> Sequence[Trend]:
        """Answer how every destination to which something goes has fared lately."""
        since = now - hours * HOUR
        at, name = DELIVERY.c.updated_at, GROUPED_DESTINATION.label("destination")
        # Ranges of instants, so that both databases answer alike and read the index only.
        steps = [(at >= now - n * HOUR, hours - n) for n in range(1, hours)]
        place: ColumnElement[int] = case(*steps, else_=0)
        with self._reading() as connection:
            delivered = connection.execute(
                select(name, place.label("place"), func.count())
                .where(in_state(DeliveryState.DELIVERED), at >= since)
                .group_by(name, place)
            ).all()
            lately = connection.execute(
                select(name, func.count())
                .where(in_state(DeliveryState.DELIVERED), at >= now - LATELY)
                .group_by(name)
            ).all()
            failures = [
                details
                for event in (EventName.DELIVERY_RETRY, EventName.DELIVERY_DIED)
                for details in connection.execute(
                    select(EVENT.c.details)
                    .where(EVENT.c.name == event.value, EVENT.c.at >= now - HOUR)
                    .limit(_FAILURES_LOOKED_AT)
                ).scalars()
            ]
            stat_waiting: Counter[str] = Counter()
            for state in OPEN_STATES:  # each has an index of its own
                urgent = select(DELIVERY.c.destination).where(in_state(state), DELIVERY.c.priority <= _STAT)
                stat_waiting.update(connection.execute(urgent.limit(_WAITING_LOOKED_AT)).scalars())
        counts: dict[str, list[int]] = {}
        for destination, index, number in delivered:
            counts.setdefault(destination, [0] * hours)[index] = number
        failed = Counter(str(details.get("destination", "")) for details in failures)
        rate = {row.destination: row[1] for row in lately}
        names = sorted({*counts, *failed, *stat_waiting, *self._destinations} - {"", PROBE_DESTINATION})
        return [
            Trend(
                destination=one,
                delivered=tuple(counts.get(one, [0] * hours)),
                delivered_lately=rate.get(one, 0),
                failed_last_hour=failed[one],
                stat_waiting=stat_waiting[one],
            )
            for one in names
        ]

    def storage(self, *, now: datetime) -> Storage:
        """Answer what received images take and how fast that grows."""
        until = now.replace(minute=0, second=0, microsecond=0)
        growth = select(
            func.coalesce(func.sum(TRAFFIC_HOUR.c.bytes), 0).label("bytes"),
            func.min(TRAFFIC_HOUR.c.hour).label("first"),
        ).where(TRAFFIC_HOUR.c.hour >= until - WEEK, TRAFFIC_HOUR.c.hour < until, TRAFFIC_HOUR.c.bytes > 0)
        measured = select(MEASUREMENT.c.value).where(MEASUREMENT.c.name == IMAGE_BYTES)
        with self._reading() as connection:
            row = mappings(connection, growth)[0]
            total = connection.execute(measured).scalar_one_or_none()
        # Of a broker that is three days old, three days; of one that is three hours old, a day.
        days = max((until - row["first"]) / timedelta(days=1), 1.0) if row["first"] else 1.0
        return Storage(image_bytes=total, bytes_per_day=int(int(row["bytes"]) / days))

    def urgent(self, *, now_local: datetime, late: timedelta) -> Urgent:
        """Count patients who wait: steps of the last 24 hours whose start is past by more than `late`.

        By the site's wall clock, and over midnight: who should have begun at 23:50 waits at three, too.
        """
        since, past = now_local - _LOOKED_BACK, now_local - late
        waits = or_(STEP.c.status.in_(_ARRIVED), STEP.c.priority_rank <= literal_column(str(_STAT)))
        begun = select(STEP.c.status, STEP.c.priority_rank).where(
            STEP.c.offered.is_(True), STEP.c.time_unspecified.is_(False), waits
        )
        missing = INCOMPLETE_ORDERS.where(STEP.c.priority_rank <= literal_column(str(_STAT)))
        with self._reading() as connection:
            overdue = [
                step
                for day, first, until in _days_between(since, past)
                for step in connection.execute(
                    begun.where(
                        STEP.c.start_date == day, STEP.c.start_time >= first, STEP.c.start_time < until
                    ).limit(_MOST_STEPS)
                )
            ]
            incomplete = connection.execute(
                select(func.count()).select_from(missing.limit(_MOST_STEPS).subquery())
            ).scalar_one()
        return Urgent(
            overdue_arrived=sum(1 for status, _ in overdue if status in _ARRIVED),
            overdue_stat=sum(1 for _, rank in overdue if rank <= _STAT),
            incomplete_stat=int(incomplete),
        )


def _days_between(since: datetime, past: datetime) -> Iterator[tuple[str, str, str]]:
    """Answer each day of a span as `YYYYMMDD`, with the times of it (`HHMMSS`) from which and before which."""
    day = since.date()
    while day <= past.date():
        first = since.strftime("%H%M%S") if day == since.date() else ""
        yield f"{day:%Y%m%d}", first, past.strftime("%H%M%S") if day == past.date() else "24"
        day += timedelta(days=1)
