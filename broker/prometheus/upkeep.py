"""What the broker itself is like: roles, resources, room, alerts, certificates, and its synthetic exam."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from broker import __version__
from broker.domain.alerts import AlertState
from broker.prometheus.gauges import gauge, one

if TYPE_CHECKING:
    from broker.db.reports import SqlReports
    from broker.workflow.alert_conditions import Certificate
    from broker.workflow.overview_port import HealthPart, Resource

_REFUSED_SINCE = timedelta(days=1)


def of_upkeep(
    reports: SqlReports,
    *,
    now: datetime,
    data_dir: Path,
    health: Sequence[HealthPart],
    resources: Sequence[Resource],
    certificates: Sequence[Certificate],
) -> Iterator[Metric]:
    """Tell how the broker is. Raises DatabaseUnavailable."""
    yield gauge("info", "Version of the broker.", ["version"], {(__version__,): 1})
    roles = {(part.name,): int(part.ok) for part in health}
    yield gauge("role_up", "Whether a role serves.", ["role"], roles)
    states = {(resource.name.lower(), resource.state): 1 for resource in resources}
    yield gauge("resource_state", "1 for the state a resource is in.", ["resource", "state"], states)
    free: float | None = None
    with suppress(OSError):  # the state of the disk says it
        free = shutil.disk_usage(data_dir).free
    yield one("disk_free_bytes", "Room left where the images are.", free)
    storage = reports.storage(now=now)
    yield one("image_bytes", "What received images take, as last measured.", storage.image_bytes)
    meaning = "Bytes of images received on an average day of the last week."
    yield one("image_bytes_per_day", meaning, storage.bytes_per_day)
    needs = reports.needs_person(refused_since=now - _REFUSED_SINCE)
    waits = {
        (name.replace("_", " "),): getattr(needs, name)
        for name in (
            "dead_deliveries",
            "parked_messages",
            "incomplete_orders",
            "unrouted_studies",
            "refused_devices",
        )
    }
    yield gauge("needs_person", "What waits for a person, each counted to 1,001.", ["what"], waits)
    kinds = Counter(
        (alert.kind.value, alert.severity.value)
        for alert in reports.open_alerts()
        if alert.state is AlertState.RAISED
    )
    yield gauge("alerts", "Open alerts.", ["kind", "severity"], dict(kinds))
    windows = [window for window in reports.maintenance_windows(now=now) if window.holds(now)]
    yield one("maintenance_windows", "Maintenance windows in force.", len(windows))
    ends = {(one_of.name,): one_of.ends_at.timestamp() for one_of in certificates if one_of.ends_at}
    yield gauge("certificate_ends_timestamp_seconds", "When a certificate ends.", ["certificate"], ends)
    yield from _of_probe(reports)


def _of_probe(reports: SqlReports) -> Iterator[Metric]:
    last = next(iter(reports.probe_runs(limit=1)), None)
    meaning = "Whether every hop of the last synthetic exam held."
    yield one("probe_ok", meaning, None if last is None else int(last.ok))
    at = None if last is None else last.started_at.timestamp()
    yield one("probe_timestamp_seconds", "When the last synthetic exam began.", at)
    hops = {(hop.name,): hop.seconds for hop in last.hops} if last else {}
    yield gauge("probe_hop_seconds", "How long the hops of the last synthetic exam took.", ["hop"], hops)
    failed = {(last.failed_hop,): 1.0} if last and last.failed_hop else {}
    yield gauge("probe_failed_hop", "1 for the hop at which the last synthetic exam failed.", ["hop"], failed)
