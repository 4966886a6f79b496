"""The rules in force as people read them: a sentence each, what it sent last, and those that send nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from broker.domain.rule_sentences import sentence_of
from broker.domain.rules import Routes
from broker.workflow.delivery_reports import DeliveryReports
from broker.workflow.reports_port import DeliveryLine, Reports
from broker.workflow.rules_port import RuleReports, RuleTraffic
from broker.workflow.selection import Selection

DEAD_AFTER_DAYS = 30
LAST_SHOWN = 3


class RulebookReports(RuleReports, Reports, DeliveryReports, Protocol):
    """What the rule book is read from."""


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One rule in force."""

    name: str
    sentence: str
    destinations: tuple[str, ...]
    stop: bool
    matched_today: int
    """Series."""
    sent_today: Mapping[str, int]
    """Destination -> deliveries planned today."""
    last: tuple[DeliveryLine, ...]
    """Its last deliveries, newest first."""
    state: str
    """sends, new or dead."""
    why: str = ""

    @property
    def last_at(self) -> datetime | None:
        """Answer when it sent something last."""
        return self.last[0].created_at if self.last else None


@dataclass(frozen=True, slots=True)
class Rulebook:
    """All rules in force, in the order they are asked."""

    rules: tuple[RuleLine, ...]
    traffic: RuleTraffic
    dead_after_days: int

    @property
    def dead(self) -> list[RuleLine]:
        """Answer the rules that have sent nothing for so long."""
        return [rule for rule in self.rules if rule.state == "dead"]


def read_rulebook(
    routes: Routes,
    reports: RulebookReports,
    *,
    now: datetime,
    midnight: datetime,
    dead_after_days: int = DEAD_AFTER_DAYS,
) -> Rulebook:
    """Read the rules in force with what they did."""
    traffic = reports.rule_traffic(since=midnight)
    known = reports.rules_known_since([route.name for route in routes.routes])
    span = timedelta(days=dead_after_days)
    rules: list[RuleLine] = []
    for route in routes.routes:
        last = reports.select_deliveries(Selection(route=route.name), limit=LAST_SHOWN)
        state, why = _judged(last, known.get(route.name), now=now, span=span)
        rules.append(
            RuleLine(
                name=route.name,
                sentence=sentence_of(route),
                destinations=route.send,
                stop=route.stop,
                matched_today=sum(n for (_, rule), n in traffic.matches.items() if rule == route.name),
                sent_today={name: traffic.deliveries.get((route.name, name), 0) for name in route.send},
                last=tuple(last),
                state=state,
                why=why,
            )
        )
    return Rulebook(tuple(rules), traffic, dead_after_days)


def _judged(
    last: Sequence[DeliveryLine], known: datetime | None, *, now: datetime, span: timedelta
) -> tuple[str, str]:
    if last:
        if now - last[0].created_at <= span:
            return "sends", ""
        return "dead", f"sent nothing for {(now - last[0].created_at).days} days"
    if known is None or now - known <= span:
        return "new", "has sent nothing yet"
    return "dead", f"has sent nothing in the {(now - known).days} days it is known"
