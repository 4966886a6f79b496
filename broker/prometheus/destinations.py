"""What goes out: deliveries and their destinations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from broker.prometheus.gauges import gauge, histogram

if TYPE_CHECKING:
    from broker.db.reports import SqlReports
    from broker.workflow.metrics_port import Numbers

_STATES = ("up", "draining", "paused", "failing")
_HELD = ("paused", "draining")
BOUNDS_S = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600)


def of_destinations(reports: SqlReports, numbers: Numbers, *, now: datetime) -> Iterator[Metric]:
    """Tell what goes out. Raises DatabaseUnavailable."""
    yield gauge(
        "deliveries",
        "Deliveries that are not done, by destination and state.",
        ["destination", "state"],
        {(name, state): number for (name, state), number in numbers.deliveries.items()},
    )
    delivered = {(name,): number for name, number in numbers.delivered.items()}
    yield gauge("delivered_last_hour", "Deliveries done in the last hour.", ["destination"], delivered)
    yield histogram(
        "delivery_seconds_last_hour",
        "From a delivery's being planned to its being done, of those done in the last hour.",
        "destination",
        BOUNDS_S,
        numbers.seconds,
    )
    yield gauge(
        "failures_last_hour",
        "Tries that failed in the last hour, by class of failure.",
        ["destination", "failure_class"],
        {(name, kind): number for (name, kind), number in numbers.failures.items()},
    )
    lines = reports.destinations(now=now)
    yield gauge(
        "destination_state",
        "1 for the state a destination is in.",
        ["destination", "state"],
        {(line.destination, state): int(line.state == state) for line in lines for state in _STATES},
    )
    yield gauge(
        "destination_held_seconds",
        "How long a destination has been paused or drained.",
        ["destination"],
        {
            (line.destination,): (now - line.since).total_seconds()
            for line in lines
            if line.state in _HELD and line.since is not None
        },
    )
    yield gauge(
        "oldest_delivery_seconds",
        "How long the oldest delivery that could be sent waits.",
        ["destination"],
        {(line.destination,): (now - line.oldest).total_seconds() for line in reports.overdue()},
    )
