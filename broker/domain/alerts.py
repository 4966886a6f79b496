"""Alerts: what is wrong becomes one when it lasts, stays one while it flickers, and is over when it stays away.

An alert stands for one condition of one thing: forty deliveries that wait for one archive are one alert.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum


class AlertKind(Enum):
    """What can be wrong; the comment of each is its meaning."""

    SILENT = "silent"  # a sender or device says nothing, against its own rhythm
    BACKLOG = "backlog"  # the oldest delivery of a destination waits too long
    DEAD = "dead"  # deliveries that are not tried again by themselves
    PAUSED = "paused"  # a destination is held and something waits for it
    FAILING = "failing"  # a destination does not take what it is sent
    DISK = "disk"  # the reserve is near or reached
    CERTIFICATE = "certificate"  # it ends soon, or cannot be read
    ROLE = "role"  # a listener, worker or sweeper gives no sign of life
    DATABASE = "database"  # it does not answer
    REDIS = "redis"  # it does not answer; the sweep does the work of the workers
    URGENT = "urgent"  # a STAT order or delivery waits
    AUDIT = "audit"  # the chain of events is broken
    PROBE = "probe"  # the synthetic exam failed, or is not run any more
    COLLECTOR = "collector"  # audit messages cannot be sent to it


class Severity(Enum):
    """How soon somebody is needed."""

    CRITICAL = "critical"
    WARNING = "warning"
    NOTICE = "notice"

    @property
    def rank(self) -> int:
        """Answer its place, the worst first."""
        return list(Severity).index(self)


class AlertState(Enum):
    """Where an alert stands."""

    PENDING = "PENDING"
    """Found, and not yet for long enough; nobody is told."""
    RAISED = "RAISED"
    RECOVERED = "RECOVERED"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong now. Its texts name no patient: they leave the house by mail."""

    kind: AlertKind
    subject: str
    """Which thing: the name of a destination, sender, device, role or certificate; empty: there is only one."""
    severity: Severity
    headline: str
    action: str
    """What to do about it."""
    link: str
    """Path of the page that mends it."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One condition of one thing, as stored."""

    id: int
    kind: AlertKind
    subject: str
    state: AlertState
    severity: Severity
    headline: str
    action: str
    link: str
    first_seen_at: datetime
    updated_at: datetime
    clear_since: datetime | None = None
    """Since when nothing has been found any more; None: it is wrong."""
    raised_at: datetime | None = None
    recovered_at: datetime | None = None
    told_at: datetime | None = None
    """When people were told last; None: not yet."""
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long something must be wrong before people are told, and right before they are told that it is over."""

    before: timedelta
    after: timedelta


_USUAL = Patience(timedelta(seconds=60), timedelta(minutes=2))
PATIENCE: Mapping[AlertKind, Patience] = {
    # Counted or timed already: what is found is true, and what is mended is mended.
    AlertKind.SILENT: Patience(timedelta(0), timedelta(0)),
    AlertKind.DEAD: Patience(timedelta(0), timedelta(minutes=1)),
    AlertKind.CERTIFICATE: Patience(timedelta(0), timedelta(0)),
    AlertKind.AUDIT: Patience(timedelta(0), timedelta(0)),
    AlertKind.PROBE: Patience(timedelta(0), timedelta(0)),
    AlertKind.COLLECTOR: Patience(timedelta(0), timedelta(minutes=1)),
    # A peer that comes and goes is one alert, not ten.
    AlertKind.FAILING: Patience(timedelta(seconds=60), timedelta(minutes=5)),
    AlertKind.BACKLOG: Patience(timedelta(0), timedelta(minutes=2)),
    AlertKind.URGENT: Patience(timedelta(0), timedelta(minutes=1)),
}
"""By kind; others are found for a minute and gone for two."""
REWRITE = timedelta(minutes=1)
"""An alert tells how it stands no older than this: ages and numbers change with every look."""


def patience_of(kind: AlertKind) -> Patience:
    """Answer how patient a kind is."""
    return PATIENCE.get(kind, _USUAL)


def follow(alert: Alert | None, finding: Finding | None, *, now: datetime) -> Alert | None:
    """Answer an alert as it stands after a look; None when there is none any more, and it was never raised.

    Answers the very alert it was given when nothing has changed. A new one has the id 0.
    """
    if finding is None:
        return None if alert is None else _cleared(alert, now)
    if alert is None:
        alert = Alert(
            id=0,
            kind=finding.kind,
            subject=finding.subject,
            state=AlertState.PENDING,
            severity=finding.severity,
            headline=finding.headline,
            action=finding.action,
            link=finding.link,
            first_seen_at=now,
            updated_at=now,
        )
    return _found(alert, finding, now)


def _found(alert: Alert, finding: Finding, now: datetime) -> Alert:
    after = alert
    if alert.clear_since is not None:
        after = replace(after, clear_since=None)
    if finding.severity is not alert.severity:
        # Worse than what people were told, or said to have in hand: it is news.
        after = replace(after, severity=finding.severity)
        if finding.severity.rank < alert.severity.rank:
            after = replace(after, told_at=None, acknowledged_at=None, acknowledged_by=None)
    if after.state is AlertState.PENDING and now - after.first_seen_at >= patience_of(alert.kind).before:
        after = replace(after, state=AlertState.RAISED, raised_at=now)
    said = (finding.headline, finding.action, finding.link)
    is_old = now - alert.updated_at >= REWRITE
    if said != (alert.headline, alert.action, alert.link) and (is_old or after is not alert):
        after = replace(after, headline=said[0], action=said[1], link=said[2])
    return after if after is alert else replace(after, updated_at=now)


def _cleared(alert: Alert, now: datetime) -> Alert | None:
    if alert.state is AlertState.PENDING:
        return None
    since = alert.clear_since or now
    if now - since >= patience_of(alert.kind).after:
        return replace(alert, state=AlertState.RECOVERED, clear_since=since, recovered_at=now, updated_at=now)
    return alert if alert.clear_since else replace(alert, clear_since=since, updated_at=now)


# ---- telling people ------------------------------------------------------------------------------------


class Notice(Enum):
    """Why people are told."""

    RAISED = "raised"
    REMINDER = "still so"
    RECOVERED = "over"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A span in which work is done on something on purpose: nobody is told, and everything stays on the pages."""

    id: int
    starts_at: datetime
    ends_at: datetime
    subject: str
    """What is worked on, by the name alerts have for it; empty: everything."""
    reason: str
    actor: str
    ended_at: datetime | None = None
    ended_by: str | None = None

    def holds(self, now: datetime) -> bool:
        """Answer whether work is going on."""
        return self.ended_at is None and self.starts_at <= now < self.ends_at

    def covers(self, alert: Alert, now: datetime) -> bool:
        """Answer whether an alert is of what is worked on."""
        return self.holds(now) and self.subject in {"", alert.subject}


def notice_of(
    alert: Alert, *, now: datetime, repeat: timedelta, windows: Iterable[Maintenance]
) -> Notice | None:
    """Answer whether people are to be told about an alert now, and why.

    Who was told of the beginning is told of the end, whatever is worked on then. What begins in a maintenance and
    outlasts it is told when that ends.
    """
    if alert.state is AlertState.RECOVERED:
        return Notice.RECOVERED if alert.told_at is not None else None
    if alert.state is not AlertState.RAISED or any(window.covers(alert, now) for window in windows):
        return None
    if alert.told_at is None:
        return Notice.RAISED
    if alert.acknowledged_at is None and alert.clear_since is None and now - alert.told_at >= repeat:
        return Notice.REMINDER
    return None
