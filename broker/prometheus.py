"""What the pages show, as numbers for Prometheus: computed from the rows when asked, at most once in five seconds.

Computed and not counted along the way: whatever process answers, whatever was restarted, the numbers are the same. What
happened is told of the last hour, as gauges: rows are forgotten one day, and a counter must not fall.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker import __version__
from broker.domain.alerts import AlertState

if TYPE_CHECKING:
    from broker.bootstrap import Broker
    from broker.workflow.overview_port import HealthPart

SPAN = timedelta(hours=1)
FOR_S = 5.0
_STATES = ("up", "draining", "paused", "failing")


class Metrics:
    """Answers the text Prometheus reads; asked more often, it answers what it has."""

    def __init__(
        self, broker: Broker, health: Callable[[], Sequence[HealthPart]], *, for_s: float = FOR_S
    ) -> None:
        """Read nothing yet."""
        self._broker = broker
        self._health = health
        self._for_s = for_s
        self._lock = threading.Lock()
        self._text = b""
        self._until_s = 0.0

    def text(self) -> bytes:
        """Answer the metrics. Raises DatabaseUnavailable."""
        with self._lock:
            now_s = self._broker.clock.monotonic()
            if not self._text or now_s >= self._until_s:
                registry = CollectorRegistry(auto_describe=False)
                registry.register(_Once(list(families(self._broker, self._health()))))
                self._text = generate_latest(registry)
                self._until_s = now_s + self._for_s
            return self._text


class _Once(Collector):
    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        """Answer what was read."""
        return self._found


def families(broker: Broker, health: Sequence[HealthPart]) -> Iterator[Metric]:
    """Read every metric. Raises DatabaseUnavailable."""
    now = broker.clock.now()
    reports = broker.reports
    numbers = reports.numbers(since=now - SPAN)
    yield _gauge("worklist_broker_info", "Version of the broker.", ["version"], {(__version__,): 1})
    yield _gauge(
        "worklist_broker_role_up",
        "Whether a role serves.",
        ["role"],
        {(part.name,): int(part.ok) for part in health},
    )
    yield _gauge(
        "worklist_broker_messages_last_hour",
        "HL7 messages of the last hour by outcome.",
        ["outcome"],
        {(name,): number for name, number in numbers.messages.items()},
    )
    yield _gauge(
        "worklist_broker_instances_last_hour", "Images of the last hour.", [], {(): numbers.instances}
    )
    yield _gauge(
        "worklist_broker_received_bytes_last_hour",
        "Bytes of images of the last hour.",
        [],
        {(): numbers.received_bytes},
    )
    yield _gauge(
        "worklist_broker_deliveries",
        "Deliveries that are not done, by destination and state.",
        ["destination", "state"],
        {(name, state): number for (name, state), number in numbers.deliveries.items()},
    )
    yield _gauge(
        "worklist_broker_delivered_last_hour",
        "Deliveries done in the last hour.",
        ["destination"],
        {(name,): number for name, number in numbers.delivered.items()},
    )
    yield _gauge(
        "worklist_broker_failures_last_hour",
        "Tries that failed in the last hour, by class of failure.",
        ["destination", "failure_class"],
        {(name, kind): number for (name, kind), number in numbers.failures.items()},
    )
    lines = reports.destinations(now=now)
    yield _gauge(
        "worklist_broker_destination_state",
        "1 for the state a destination is in.",
        ["destination", "state"],
        {(line.destination, state): int(line.state == state) for line in lines for state in _STATES},
    )
    yield _gauge(
        "worklist_broker_oldest_delivery_seconds",
        "How long the oldest delivery that could be sent waits.",
        ["destination"],
        {(one.destination,): (now - one.oldest).total_seconds() for one in reports.overdue()},
    )
    raised = [one for one in reports.open_alerts() if one.state is AlertState.RAISED]
    kinds: dict[tuple[str, ...], float] = {}
    for alert in raised:
        key = (alert.kind.value, alert.severity.value)
        kinds[key] = kinds.get(key, 0) + 1
    yield _gauge("worklist_broker_alerts", "Open alerts.", ["kind", "severity"], kinds)


def _gauge(name: str, meaning: str, labels: list[str], values: dict[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
