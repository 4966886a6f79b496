"""How things stand: one reading of everything the overview, the API and the command line tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from broker.workflow.clock import Clock
from broker.workflow.overview_port import (
    DestinationState,
    HealthPart,
    NeedsPerson,
    Resource,
    Trend,
    Urgent,
)
from broker.workflow.reports_port import DayCounts, DestinationLine, Reports
from broker.workflow.silence import SourceState, judge_sources
from broker.workflow.troubles import Trouble, troubles

LATE = timedelta(minutes=30)
"""So long after its start a step has not begun, and its patient has arrived."""
REFUSED_LATELY = timedelta(hours=24)
"""Refusals older than this need nobody any more."""
_NO_TREND = Trend("", (), 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Situation:
    """How things stood at an instant."""

    at: datetime
    since: datetime
    """The midnight from which the counts of the day are."""
    troubles: Sequence[Trouble]
    day: DayCounts
    destinations: Sequence[DestinationState]
    sources: Sequence[SourceState]
    health: Sequence[HealthPart]
    resources: Sequence[Resource]
    urgent: Urgent
    needs: NeedsPerson


def read_situation(
    reports: Reports,
    *,
    health: Callable[[], Sequence[HealthPart]],
    resources: Callable[[], Sequence[Resource]],
    clock: Clock,
    zone: tzinfo,
) -> Situation:
    """Read how things stand now."""
    now, local = clock.now(), clock.local_now()
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    day = reports.day(since=midnight)
    trends = {trend.destination: trend for trend in reports.trends(now=now)}
    destinations = [
        _destination(line, trends.get(line.destination, _NO_TREND)) for line in reports.destinations(now=now)
    ]
    sources = judge_sources(reports.sources(), now=now, zone=zone)
    parts, stands_on = health(), resources()
    urgent = reports.urgent(now_local=local, late=LATE)
    needs = reports.needs_person(refused_since=now - REFUSED_LATELY)
    found = troubles(
        day=day,
        destinations=destinations,
        sources=sources,
        health=parts,
        resources=stands_on,
        urgent=urgent,
        refused_devices=needs.refused_devices,
        now=now,
    )
    return Situation(now, midnight, found, day, destinations, sources, parts, stands_on, urgent, needs)


def _destination(line: DestinationLine, trend: Trend) -> DestinationState:
    drains_in = None
    if line.waiting and line.state == "up" and trend.delivered_lately:
        drains_in = timedelta(minutes=15) * (line.waiting / trend.delivered_lately)
    return DestinationState(
        destination=line.destination,
        state=line.state,
        reason=line.reason,
        waiting=line.waiting,
        stat_waiting=trend.stat_waiting,
        oldest=line.oldest,
        dead=line.dead,
        delivered=trend.delivered,
        delivered_last_hour=line.delivered_last_hour,
        failed_last_hour=trend.failed_last_hour,
        last_success_at=line.last_success_at,
        drains_in=drains_in,
        held_by=line.held_by,
        resume_at=line.resume_at,
        stat_dead=line.stat_dead,
    )
