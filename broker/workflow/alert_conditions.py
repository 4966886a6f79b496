"""What is wrong, read from how things stand: the conditions that alerts are made of.

Reasons peers have given are left out: they may name a patient, and alerts leave the house. The link leads to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from broker.domain.alerts import AlertKind, Finding, Severity
from broker.domain.rhythm import Silence
from broker.domain.wording import counted, words
from broker.workflow.alerts_port import Overdue
from broker.workflow.overview_port import COLLECTOR, HealthPart, Resource, Urgent
from broker.workflow.reports_port import DestinationLine
from broker.workflow.silence import SourceState

_NAME = 100
_RESOURCES = {
    "Disk": AlertKind.DISK,
    "Redis": AlertKind.REDIS,
    "Database": AlertKind.DATABASE,
    "Synthetic exam": AlertKind.PROBE,
}
NOBODY_WAITS = Urgent(0, 0, 0)
CERTIFICATE_STEPS = (
    (timedelta(days=1), Severity.CRITICAL),
    (timedelta(days=7), Severity.WARNING),
    (timedelta(days=30), Severity.NOTICE),
)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How long things may wait before somebody is told."""

    backlog: timedelta = timedelta(minutes=30)
    urgent: timedelta = timedelta(minutes=10)
    paused: timedelta = timedelta(hours=1)
    """A destination a person holds."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of the site file."""

    name: str
    """The key it is named under, such as listen.dicom.tls."""
    ends_at: datetime | None
    """None: it cannot be read."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand, as far as alerts go."""

    destinations: Sequence[DestinationLine] = ()
    overdue: Sequence[Overdue] = ()
    sources: Sequence[SourceState] = ()
    health: Sequence[HealthPart] = ()
    resources: Sequence[Resource] = ()
    certificates: Sequence[Certificate] = ()
    urgent: Urgent = NOBODY_WAITS
    audit: Sequence[str] = ()
    """What is wrong with the chain of events."""


def findings(standing: Standing, thresholds: Thresholds, *, now: datetime) -> list[Finding]:
    """Answer everything that is wrong, each condition of each thing once."""
    owed = {one.destination: one for one in standing.overdue}
    found = [
        *_roles(standing.health),
        *_resources(standing.resources),
        *_silences(standing.sources),
        *_certificates(standing.certificates, now),
        *_orders(standing.urgent),
        *_audit(standing.audit),
    ]
    for line in standing.destinations:
        found += _destination(line, owed.get(line.destination), thresholds, now)
    return list(_once(found).values())


def _once(found: Sequence[Finding]) -> Mapping[tuple[AlertKind, str], Finding]:
    """Keep the worst of those that are about the same."""
    kept: dict[tuple[AlertKind, str], Finding] = {}
    for one in sorted(found, key=lambda finding: finding.severity.rank):
        kept.setdefault((one.kind, one.subject), one)
    return kept


def _roles(health: Sequence[HealthPart]) -> Iterator[Finding]:
    for part in health:
        if not part.ok and part.name not in {"disk reserve", "database"}:  # these are asked directly
            headline = f"The {part.name} role does not serve"
            action = "See all parts, then its log; it is restarted by itself."
            yield Finding(AlertKind.ROLE, part.name, Severity.CRITICAL, headline, action, "/#parts")


def _resources(resources: Sequence[Resource]) -> Iterator[Finding]:
    for one in resources:
        is_collector = one.name.startswith(COLLECTOR)
        kind = AlertKind.COLLECTOR if is_collector else _RESOURCES.get(one.name)
        if one.state == "up" or kind is None:
            continue
        subject = one.name.removeprefix(COLLECTOR) if is_collector else ""
        severity = Severity.CRITICAL if one.state in {"full", "down", "failing"} else Severity.WARNING
        headline = f"{one.name}: {one.told or one.detail}"
        yield Finding(kind, subject, severity, headline, one.advice, one.link)


def _silences(sources: Sequence[SourceState]) -> Iterator[Finding]:
    for source in sources:
        if source.silence is not Silence.SILENT:
            continue
        name = plain(source.name or source.peer)
        quoted = quote(source.name, safe="")
        if source.kind == "sender":
            action = "Scanners still get their lists; new orders may be missing. Call the sender's team."
            severity, link = Severity.CRITICAL, f"/messages?sender={quoted}"
        else:
            action = "Ask whether it is switched off; then look at its network and its settings."
            severity, link = Severity.WARNING, f"/devices/{quoted}"
        subject = name if not source.facility else plain(f"{name} ({source.facility})")
        yield Finding(AlertKind.SILENT, subject, severity, f"{subject} is {source.reason}", action, link)


def _certificates(certificates: Sequence[Certificate], now: datetime) -> Iterator[Finding]:
    action = "Put a new certificate in its place; it is read without a restart."
    for one in certificates:
        if one.ends_at is None:
            headline = f"The certificate {one.name} cannot be read: {one.problem}"
            yield Finding(AlertKind.CERTIFICATE, one.name, Severity.CRITICAL, headline, action, "/#parts")
            continue
        left = one.ends_at - now
        for within, severity in CERTIFICATE_STEPS:
            if left <= within:
                ends = f"ends in {words(left)}" if left > timedelta(0) else f"ended {words(-left)} ago"
                headline = f"The certificate {one.name} {ends}"
                yield Finding(AlertKind.CERTIFICATE, one.name, severity, headline, action, "/#parts")
                break


def _orders(urgent: Urgent) -> Iterator[Finding]:
    if urgent.incomplete_stat:
        headline = f"{counted(urgent.incomplete_stat, 'STAT step')} no scanner sees: something is missing"
        action = "Complete it with the sender, or tell the scanner by telephone."
        link = "/orders?incomplete=true"
        yield Finding(AlertKind.URGENT, "incomplete", Severity.CRITICAL, headline, action, link)
    if urgent.overdue_stat:
        headline = f"{counted(urgent.overdue_stat, 'STAT step')} should have begun more than half an hour ago"
        link = "/worklist?status=SCHEDULED"
        yield Finding(AlertKind.URGENT, "overdue", Severity.CRITICAL, headline, "Ask the scanner.", link)


def _audit(problems: Sequence[str]) -> Iterator[Finding]:
    if problems:
        headline = f"The chain of events is broken in {counted(len(problems), 'place')}: {problems[0]}"
        action = "Keep the database as it is, compare it with a backup, and find out who had access."
        yield Finding(AlertKind.AUDIT, "", Severity.CRITICAL, headline, action, "/admin")


def _destination(
    line: DestinationLine, owed: Overdue | None, thresholds: Thresholds, now: datetime
) -> Iterator[Finding]:
    name = line.destination
    link = f"/destinations/{quote(name, safe='')}"
    wait = f"{counted(owed.waiting, 'delivery')} wait{'s' if owed.waiting == 1 else ''}" if owed else ""
    severity = Severity.CRITICAL if owed and owed.urgent else Severity.WARNING
    if line.state in {"paused", "draining"}:
        held_for = now - line.since if line.since else timedelta(0)
        if owed and (line.held_by is None or held_for >= thresholds.paused):
            headline = f"{name} is {line.state} for {words(held_for)}: {wait}"
            action = "Mend the reason, then resume it."
            yield Finding(AlertKind.PAUSED, name, severity, headline, action, link)
    elif line.state == "failing":
        action = "Check that the peer runs; nothing is lost, sending goes on by itself once it answers."
        headline = f"{name} is failing" + (f": {wait}, the oldest {words(now - owed.oldest)}" if owed else "")
        yield Finding(AlertKind.FAILING, name, severity, headline, action, link)
    elif owed and now - owed.oldest >= thresholds.backlog:
        headline = f"{name} is slow: {wait}, the oldest {words(now - owed.oldest)}"
        yield Finding(AlertKind.BACKLOG, name, severity, headline, "See its deliveries.", link)
    if owed and owed.oldest_urgent and now - owed.oldest_urgent >= thresholds.urgent:
        waits = f"{counted(owed.urgent, 'STAT delivery')} for {name}"
        headline = f"{waits}, the oldest waits {words(now - owed.oldest_urgent)}"
        action = "Mend the destination, or send them elsewhere."
        yield Finding(AlertKind.URGENT, name, Severity.CRITICAL, headline, action, link)
    if line.dead:
        need = "needs" if line.dead == 1 else "need"
        stat = f", {line.stat_dead} STAT" if line.stat_dead else ""
        headline = f"{counted(line.dead, 'delivery')} to {name} {need} a person{stat}"
        dead = f"/deliveries?destination={quote(name, safe='')}&state=DEAD"
        action = "Read the reason, mend it, then retry or cancel."
        severity = Severity.CRITICAL if line.stat_dead else Severity.WARNING
        yield Finding(AlertKind.DEAD, name, severity, headline, action, dead)


def plain(text: str) -> str:
    """Make one short line of what a peer calls itself: it stands in subjects of mails and in log lines."""
    return "".join(char if char.isprintable() else "·" for char in text)[:_NAME]
