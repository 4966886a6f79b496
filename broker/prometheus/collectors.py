"""Whether collectors of audit messages are told what happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from prometheus_client.core import Metric

from broker.prometheus.gauges import gauge
from broker.workflow.audit_collectors import CollectorLine


def of_collectors(lines: Sequence[CollectorLine], *, now: datetime) -> Iterator[Metric]:
    """Answer what waits for each collector of the site file."""
    yield gauge(
        "audit_collector_up",
        "Whether audit messages reach a collector.",
        ["collector"],
        {(line.name,): int(line.failing_since is None) for line in lines},
    )
    yield gauge(
        "audit_collector_waiting",
        "Events a collector has not been told.",
        ["collector"],
        {(line.name,): line.waiting for line in lines},
    )
    yield gauge(
        "audit_collector_oldest_seconds",
        "How long the first of these waits.",
        ["collector"],
        {(line.name,): (now - line.oldest).total_seconds() if line.oldest else 0.0 for line in lines},
    )
