"""What the pages show, as numbers for Prometheus: computed from the rows when asked, at most once in five seconds.

Computed and not counted along the way: whatever process answers, whatever was restarted, the numbers are the same. What
happened is told of the last hour, as gauges: rows are forgotten one day, and a counter must not fall.

Labels are names of the site file and words of ours. What peers call themselves is one too, for so many of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from broker.prometheus.collectors import of_collectors
from broker.prometheus.destinations import of_destinations
from broker.prometheus.flow import of_flow
from broker.prometheus.gauges import SPAN
from broker.prometheus.peers import of_peers
from broker.prometheus.upkeep import of_upkeep

if TYPE_CHECKING:
    from broker.bootstrap import Broker
    from broker.workflow.alert_conditions import Certificate
    from broker.workflow.audit_collectors import CollectorLine
    from broker.workflow.overview_port import HealthPart, Resource

FOR_S = 5.0


class Metrics:
    """Answers the text Prometheus reads; asked more often, it answers what it has."""

    def __init__(
        self,
        broker: Broker,
        *,
        health: Callable[[], Sequence[HealthPart]],
        resources: Callable[[], Sequence[Resource]],
        certificates: Callable[[], Sequence[Certificate]],
        collectors: Callable[[], Sequence[CollectorLine]] = tuple,
        for_s: float = FOR_S,
    ) -> None:
        """Read nothing yet."""
        self._broker = broker
        self._health = health
        self._resources = resources
        self._certificates = certificates
        self._collectors = collectors
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
                registry.register(_Once(list(self._families())))
                self._text = generate_latest(registry)
                self._until_s = now_s + self._for_s
            return self._text

    def _families(self) -> Iterator[Metric]:
        broker = self._broker
        now, reports = broker.clock.now(), broker.reports
        numbers = reports.numbers(since=now - SPAN)
        yield from of_flow(reports, numbers, local=broker.clock.local_now())
        yield from of_destinations(reports, numbers, now=now)
        yield from of_peers(reports, numbers, now=now, zone=broker.zone)
        yield from of_upkeep(
            reports,
            now=now,
            data_dir=broker.data_dir,
            health=self._health(),
            resources=self._resources(),
            certificates=self._certificates(),
        )
        yield from of_collectors(self._collectors(), now=now)


class _Once(Collector):
    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        """Answer what was read."""
        return self._found
