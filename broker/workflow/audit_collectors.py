"""How it stands with the collectors of audit messages, as pages, commands and monitoring show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.workflow.audit_port import TrailReports


@dataclass(frozen=True, slots=True)
class ConfiguredCollector:
    """A collector of the site file."""

    name: str
    address: str
    protocol: str


@dataclass(frozen=True, slots=True)
class CollectorLine:
    """A collector, and what it has been told."""

    name: str
    address: str
    protocol: str
    state: str
    """up, failing or new (nothing was sent to it yet)."""
    waiting: int
    """Events it has not been told."""
    oldest: datetime | None
    """When the first of these happened."""
    handed_over_at: datetime | None
    failing_since: datetime | None
    problem: str

    def is_away(self, patience: timedelta, *, now: datetime) -> bool:
        """Tell whether it cannot be reached, or has not been sent to, for so long."""
        if self.failing_since is not None:
            return now - self.failing_since >= patience
        return self.oldest is not None and now - self.oldest >= patience


def collector_lines(
    reports: TrailReports, configured: Sequence[ConfiguredCollector]
) -> Sequence[CollectorLine]:
    """Answer the collectors of the site file in its order. Raises DatabaseUnavailable."""
    if not configured:
        return ()
    known = {one.name: one for one in reports.collectors()}
    end = reports.trail_end()
    lines = []
    for one in configured:
        state = known.get(one.name)
        waiting = max(0, end - state.number) if state else 0
        lines.append(
            CollectorLine(
                name=one.name,
                address=one.address,
                protocol=one.protocol,
                state="new" if state is None else "failing" if state.failing_since else "up",
                waiting=waiting,
                oldest=reports.unsent_since(state.number) if state and waiting else None,
                handed_over_at=state.handed_over_at if state else None,
                failing_since=state.failing_since if state else None,
                problem=state.problem if state else "",
            )
        )
    return lines
