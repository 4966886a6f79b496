"""Counts for monitoring: each a bounded statement over an index, of a span that ends now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import func, select

from broker.db.delivery_states import OPEN_STATES, in_state
from broker.db.reports.reading import Reader
from broker.db.schema import DELIVERY, EVENT, INSTANCE, MESSAGE
from broker.domain.delivery import DeliveryState
from broker.domain.events import EventName
from broker.workflow.metrics_port import Numbers

_EVENTS_LOOKED_AT = 20_000
_TRIES = (EventName.DELIVERY_RETRY, EventName.DELIVERY_DIED)


class MetricReports(Reader):
    """Implements the MetricReports port."""

    def numbers(self, *, since: datetime) -> Numbers:
        """Count what happened since an instant, and what waits now."""
        with self._reading() as connection:
            messages = {
                str(outcome): int(number)
                for outcome, number in connection.execute(
                    select(MESSAGE.c.outcome, func.count())
                    .where(MESSAGE.c.received_at >= since)
                    .group_by(MESSAGE.c.outcome)
                )
            }
            instances, received_bytes = connection.execute(
                select(func.count(), func.coalesce(func.sum(INSTANCE.c.size_bytes), 0)).where(
                    INSTANCE.c.received_at >= since
                )
            ).one()
            states: Counter[tuple[str, str]] = Counter()
            for state in (*OPEN_STATES, DeliveryState.DEAD):
                for name, number in connection.execute(
                    select(DELIVERY.c.destination, func.count())
                    .where(in_state(state))
                    .group_by(DELIVERY.c.destination)
                ):
                    states[name, state.value] += number
            delivered: Mapping[str, int] = {
                str(name): int(number)
                for name, number in connection.execute(
                    select(DELIVERY.c.destination, func.count())
                    .where(in_state(DeliveryState.DELIVERED), DELIVERY.c.updated_at >= since)
                    .group_by(DELIVERY.c.destination)
                )
            }
            failures: Counter[tuple[str, str]] = Counter()
            for event in _TRIES:
                for details in connection.execute(
                    select(EVENT.c.details)
                    .where(EVENT.c.name == event.value, EVENT.c.at >= since)
                    .limit(_EVENTS_LOOKED_AT)
                ).scalars():
                    failures[str(details.get("destination")), str(details.get("failure_class"))] += 1
        return Numbers(
            messages=messages,
            instances=int(instances),
            received_bytes=int(received_bytes),
            deliveries=dict(states),
            delivered=delivered,
            failures=dict(failures),
        )
