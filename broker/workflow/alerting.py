"""Turns what is wrong into alerts, and alerts into notices that channels carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from broker.domain.alerts import (
    Alert,
    AlertKind,
    AlertState,
    Finding,
    Maintenance,
    Notice,
    Severity,
    follow,
    notice_of,
)
from broker.domain.events import Event, EventName, Subject
from broker.workflow.alerts_port import AlertReports, Channel, ChannelFailed, Message, StoredNotice, Told
from broker.workflow.clock import Clock
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork

KEPT = timedelta(days=90)
"""Alerts that are over are forgotten then; their events stay."""
GIVE_UP = timedelta(hours=24)
_FIRST_RETRY = timedelta(seconds=30)
_LONGEST_RETRY = timedelta(minutes=15)
_MOST_LINES = 50
_EVENTS = {AlertState.RAISED: EventName.ALERT_RAISED, AlertState.RECOVERED: EventName.ALERT_RECOVERED}


@dataclass(frozen=True, slots=True)
class Telling:
    """How people are told."""

    channels: Mapping[str, Channel]
    repeat: timedelta
    site_name: str
    public_url: str = ""
    """Where a person reaches the pages; empty: links are paths."""

    def line(self, alert: Alert, notice: Notice) -> Told:
        """Say what there is to tell about an alert."""
        link = f"{self.public_url.rstrip('/')}{alert.link}"
        return Told(
            notice=notice,
            kind=alert.kind.value,
            subject=alert.subject,
            severity=alert.severity.value,
            headline=alert.headline,
            action=alert.action,
            link=link,
            since=alert.first_seen_at,
        )


@dataclass(frozen=True, slots=True)
class Carried:
    """What came of handing over."""

    sent: int
    problems: Mapping[str, str]
    """By channel."""


class Alerting:
    """Follows what is wrong, from one look to the next."""

    def __init__(
        self, units_of_work: UnitsOfWork, reports: AlertReports, clock: Clock, telling: Telling
    ) -> None:
        self._units_of_work = units_of_work
        self._reports = reports
        self._clock = clock
        self._telling = telling

    def look(self, found: Iterable[Finding]) -> list[Alert]:
        """Follow what was found, answer the alerts that were raised or are over; nothing is sent here."""
        findings = {(one.kind, one.subject): one for one in found}
        now = self._clock.now()
        windows = self._reports.maintenance_windows(now=now)
        if not self._changes(self._reports.open_alerts(), findings, windows, now):
            return []  # without the write lock: mostly there is nothing
        with self._units_of_work() as uow:
            uow.lock("alerts")
            changes = self._changes(uow.alerts.open(), findings, windows, now)
            stored = [self._store(uow, before, after, windows, now) for before, after in changes]
            uow.commit()
        return [alert for alert in stored if alert is not None]

    def _changes(
        self,
        alerts: Sequence[Alert],
        findings: Mapping[tuple[AlertKind, str], Finding],
        windows: Sequence[Maintenance],
        now: datetime,
    ) -> list[tuple[Alert | None, Alert | None]]:
        known = {(alert.kind, alert.subject): alert for alert in alerts}
        changes: list[tuple[Alert | None, Alert | None]] = []
        for key in known.keys() | findings.keys():
            before = known.get(key)
            after = follow(before, findings.get(key), now=now)
            if after is not before or (after is not None and self._notice(after, windows, now)):
                changes.append((before, after))
        return changes

    def _notice(self, alert: Alert, windows: Sequence[Maintenance], now: datetime) -> Notice | None:
        return notice_of(alert, now=now, repeat=self._telling.repeat, windows=windows)

    def _store(
        self,
        uow: UnitOfWork,
        before: Alert | None,
        after: Alert | None,
        windows: Sequence[Maintenance],
        now: datetime,
    ) -> Alert | None:
        """Store one change, answer the alert when it was raised or is over."""
        if after is None:
            if before is not None:
                uow.alerts.remove(before.id)
            return None
        notice = self._notice(after, windows, now)
        if notice is not None:
            after = replace(after, told_at=now)
        key = after.id
        if key:
            uow.alerts.save(after)
        else:
            key = uow.alerts.add(after)
        event = _EVENTS.get(after.state)
        is_news = event is not None and (before is None or before.state is not after.state)
        if event is not None and is_news:
            details = {"kind": after.kind.value, "about": after.subject, "alert": key}
            uow.record(Event(event, Subject.SYSTEM, details=details))
        if notice is not None:
            for channel in self._telling.channels:
                uow.alerts.add_notice(key, channel, notice, now=now)
        return replace(after, id=key) if is_news else None

    def carry(self) -> Carried:
        """Hand what is due over to the channels, one message for each."""
        by_channel: dict[str, list[StoredNotice]] = {}
        for one in self._reports.due_notices(now=self._clock.now()):
            by_channel.setdefault(one.channel, []).append(one)
        sent, problems = 0, {}
        for name, notices in by_channel.items():
            problem = self._hand_over(name, notices)
            if problem:
                problems[name] = problem
            else:
                sent += len(notices)
        return Carried(sent, problems)

    def _hand_over(self, name: str, notices: Sequence[StoredNotice]) -> str:
        """Hand notices over as one message, answer what went wrong."""
        channel = self._telling.channels.get(name)
        keys = [one.id for one in notices]
        if channel is None:
            self._settle(keys, "FAILED", gone := "the channel is no longer configured")
            return gone
        ordered = sorted(notices, key=lambda one: (one.alert.severity.rank, one.id))
        lines = [self._telling.line(one.alert, one.notice) for one in ordered[:_MOST_LINES]]
        message = Message(f"{name}-{keys[0]}-{len(keys)}", self._telling.site_name, self._clock.now(), lines)
        try:
            channel.send(message)
        except ChannelFailed as error:
            self._put_off(notices, str(error))
            return str(error)
        self._settle(keys, "SENT", None)
        return ""

    def _put_off(self, notices: Sequence[StoredNotice], said: str) -> None:
        now = self._clock.now()
        given_up = [one.id for one in notices if now - one.created_at >= GIVE_UP]
        if given_up:
            self._settle(given_up, "FAILED", said)
        waiting = [one for one in notices if one.id not in given_up]
        if waiting:
            tries = min(one.attempts for one in waiting)
            rest = min(_FIRST_RETRY * 2 ** min(tries, 10), _LONGEST_RETRY)
            self._settle([one.id for one in waiting], "WAITING", said, due_at=now + rest)

    def _settle(
        self, notices: Sequence[int], state: str, said: str | None, *, due_at: datetime | None = None
    ) -> None:
        now = self._clock.now()
        with self._units_of_work() as uow:
            uow.alerts.settle_notices(notices, state=state, said=said, due_at=due_at or now, now=now)
            uow.commit()

    def forget(self) -> int:
        """Remove alerts that have been over for long."""
        with self._units_of_work() as uow:
            forgotten = uow.alerts.forget(before=self._clock.now() - KEPT)
            if forgotten:
                uow.commit()
            return forgotten


class DatabaseWatch:
    """Tells of a database that is away: there is no row to tell it by."""

    def __init__(
        self, telling: Telling, clock: Clock, *, patience: timedelta = timedelta(seconds=60)
    ) -> None:
        self._telling = telling
        self._clock = clock
        self._patience = patience
        self._away_since: datetime | None = None
        self._told_at: datetime | None = None

    def away(self) -> Carried | None:
        """Note that it does not answer; tell when it has not for a while, and again after a longer one."""
        now = self._clock.now()
        self._away_since = self._away_since or now
        is_due = self._told_at is None or now - self._told_at >= self._telling.repeat
        if now - self._away_since < self._patience or not is_due:
            return None
        notice = Notice.RAISED if self._told_at is None else Notice.REMINDER
        carried = self._tell(notice, "The database does not answer", self._away_since)
        if carried.sent or not self._telling.channels:
            self._told_at = now
        return carried

    def back(self) -> Carried | None:
        """Note that it answers."""
        since, was_told = self._away_since, self._told_at is not None
        self._away_since = self._told_at = None
        if since is None or not was_told:
            return None
        return self._tell(Notice.RECOVERED, "The database answers again", since)

    def _tell(self, notice: Notice, headline: str, since: datetime) -> Carried:
        alert = Alert(
            id=0,
            kind=AlertKind.DATABASE,
            subject="",
            state=AlertState.RAISED,
            severity=Severity.CRITICAL,
            headline=headline,
            action="Start the database; everything waits for it.",
            link="/#parts",
            first_seen_at=since,
            updated_at=since,
        )
        message = Message(
            f"database-{since:%Y%m%d%H%M%S}-{notice.name.lower()}",
            self._telling.site_name,
            self._clock.now(),
            [self._telling.line(alert, notice)],
        )
        sent, problems = 0, {}
        for name, channel in self._telling.channels.items():
            try:
                channel.send(message)
                sent += 1
            except ChannelFailed as error:
                problems[name] = str(error)
        return Carried(sent, problems)
