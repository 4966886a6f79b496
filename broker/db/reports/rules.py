"""Reads which way the images took: from the events of receiving and routing, and the deliveries planned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from broker.db.reports.reading import Reader, mappings
from broker.db.schema import CONFIGURATION, DELIVERY, EVENT
from broker.domain.events import EventName
from broker.workflow.probe_port import PROBE
from broker.workflow.rules_port import RuleTraffic

MOST_EVENTS = 3000
"""Of each kind: a picture of the day's newest series says as much as one of all, and costs no more on a busy one."""
MOST_DELIVERIES = 20_000


class SqlRuleReports(Reader):
    """Implements the RuleReports port."""

    def rule_traffic(self, *, since: datetime) -> RuleTraffic:
        """Answer which way the images took since an instant."""
        with self._reading() as connection:
            received = _newest(connection, EventName.INSTANCE_RECEIVED, since)
            routed = _newest(connection, EventName.ROUTED, since)
            unrouted = _newest(connection, EventName.UNROUTED, since)
            deliveries = _deliveries(connection, since)
        came_from: dict[tuple[str, str], set[str]] = defaultdict(set)
        for row in received:
            came_from[_series(row)].add(row["actor"])
        matched: dict[tuple[str, str], set[str]] = defaultdict(set)
        for row in routed:
            matched[_series(row)].update(row["details"].get("routes") or ())
        left = {_series(row) for row in unrouted}
        sources: Counter[str] = Counter()
        matches: Counter[tuple[str, str]] = Counter()
        nowhere: Counter[str] = Counter()
        for series, senders in came_from.items():
            for sender in senders:
                sources[sender] += 1
                nowhere[sender] += series in left
                matches.update((sender, rule) for rule in matched.get(series, ()))
        return RuleTraffic(
            sources=dict(sources),
            matches=dict(matches),
            unrouted=+nowhere,
            deliveries={(row["route"], row["destination"]): int(row["number"]) for row in deliveries},
            cut=max(len(received), len(routed)) == MOST_EVENTS,
        )

    def rules_known_since(self, names: Sequence[str]) -> Mapping[str, datetime]:
        """Answer since when a configuration has named each rule; a site has few versions and few rules."""
        with self._reading() as connection:
            found = {
                name: connection.execute(
                    select(CONFIGURATION.c.loaded_at)
                    .where(CONFIGURATION.c.body.contains(name, autoescape=True))
                    .order_by(CONFIGURATION.c.id)
                    .limit(1)
                ).scalar_one_or_none()
                for name in names
            }
        return {name: at for name, at in found.items() if at is not None}


def _newest(connection: Connection, name: EventName, since: datetime) -> Sequence[Any]:
    return mappings(
        connection,
        select(EVENT.c.actor, EVENT.c.study_instance_uid, EVENT.c.details)
        .where(EVENT.c.name == name.value, EVENT.c.at >= since, EVENT.c.actor != PROBE)
        .order_by(EVENT.c.at.desc())
        .limit(MOST_EVENTS),
    )


def _deliveries(connection: Connection, since: datetime) -> Sequence[Any]:
    newest = (
        select(DELIVERY.c.route, DELIVERY.c.destination)
        .where(DELIVERY.c.created_at >= since)
        .order_by(DELIVERY.c.created_at.desc())
        .limit(MOST_DELIVERIES)
        .subquery()
    )
    return mappings(
        connection,
        select(newest.c.route, newest.c.destination, func.count().label("number"))
        .where(newest.c.route.is_not(None))
        .group_by(newest.c.route, newest.c.destination),
    )


def _series(row: Any) -> tuple[str, str]:
    return row["study_instance_uid"] or "", str(row["details"].get("series_instance_uid", ""))
