"""Who talks to us, who has fallen silent, and who is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from broker.domain.knocks import KnockReason
from broker.domain.rhythm import Silence
from broker.prometheus.gauges import MOST_NAMES, gauge, named, one
from broker.workflow.silence import judge_sources

if TYPE_CHECKING:
    from broker.db.reports import SqlReports
    from broker.workflow.metrics_port import Numbers

_LABELS = ["kind", "name", "facility"]


def of_peers(reports: SqlReports, numbers: Numbers, *, now: datetime, zone: tzinfo) -> Iterator[Metric]:
    """Tell who talks. Raises DatabaseUnavailable."""
    newest = sorted(reports.sources(), key=lambda source: source.last_at, reverse=True)[:MOST_NAMES]
    last: dict[tuple[str, ...], float] = {}
    silent: dict[tuple[str, ...], float] = {}
    for source in judge_sources(newest, now=now, zone=zone):
        # A sender at two addresses is one here.
        key = (source.kind, named(source.name or source.peer), named(source.facility))
        last[key] = max(last.get(key, 0.0), source.last_at.timestamp())
        is_silent = float(source.silence is Silence.SILENT)
        silent[key] = min(silent.get(key, 1.0), is_silent)
    meaning = f"When a sender or device was last heard, the newest {MOST_NAMES} of them."
    yield gauge("peer_last_heard_timestamp_seconds", meaning, _LABELS, last)
    meaning = "1: a sender or device says nothing although it usually does at this hour."
    yield gauge("peer_silent", meaning, _LABELS, silent)
    refused = {(KnockReason(reason).name.lower(),): number for reason, number in numbers.knocks.items()}
    meaning = "AE titles and addresses that were refused an association in the last hour, by reason."
    yield gauge("refused_peers_last_hour", meaning, ["reason"], refused)
    meaning = "Devices that are let in for a time."
    yield one("devices_admitted", meaning, len(reports.admitted(now=now)))
