"""Alerts as they are wired: what the sweeper looks at, and the channels of the site file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import structlog

from broker.certificates import certificates
from broker.db.seal_watch import SealWatch
from broker.domain.alerts import Alert, AlertState, Finding
from broker.errors import OutOfResources
from broker.notices.email import Email
from broker.notices.syslog import Syslog
from broker.notices.webhook import Webhook
from broker.workflow.alert_conditions import Standing, Thresholds, findings
from broker.workflow.alert_operations import AlertOperations
from broker.workflow.alerting import Alerting, Carried, DatabaseWatch, Telling
from broker.workflow.alerts_port import Channel
from broker.workflow.silence import judge_sources
from broker.workflow.situation import LATE
from broker.workflow.sweep import Chore

if TYPE_CHECKING:
    from broker.bootstrap import Broker
    from broker.resources import Resources

LOOK_S = 20.0
LOOK_MISSED_S = 180.0
"""Each channel may take its whole time-out before the look is over."""
VERIFY_S = 30.0

log = structlog.get_logger()


def alerting_chores(broker: Broker) -> Sequence[Chore]:
    """Answer what the sweeper does for alerts."""
    watch = AlertWatch(broker)
    return (
        # What looks for alerts cannot raise one for itself: the role says it, to the overview and /healthz.
        Chore("look for alerts", LOOK_S, watch.look, without_database=True, missed_after_s=LOOK_MISSED_S),
        Chore("verify the events", VERIFY_S, watch.verify),
        Chore("forget old alerts", 3600.0, watch.forget),
    )


def alert_operations(broker: Broker) -> AlertOperations:
    """Answer what people may do about alerts."""
    site = broker.loaded.site.site
    return AlertOperations(broker.units_of_work, broker.clock, channels(broker), site.name)


def channels(broker: Broker) -> dict[str, Channel]:
    """Answer the channels of the site file."""
    settings, environment = broker.loaded.site.alerts, broker.environment
    found: list[Channel] = []
    if settings.email is not None:
        found.append(
            Email(settings.email, password=environment.alerts_email_password, folder=broker.data_dir)
        )
    if settings.webhook is not None:
        secret = environment.alerts_webhook_secret
        found.append(Webhook(settings.webhook, secret=secret, folder=broker.data_dir))
    if settings.syslog is not None:
        found.append(Syslog(settings.syslog, folder=broker.data_dir))
    return {channel.name: channel for channel in found}


class AlertWatch:
    """Looks every few seconds, and sees that what is found is told."""

    def __init__(self, broker: Broker) -> None:
        """Prepare; nothing is asked yet."""
        self._broker = broker
        settings = broker.loaded.site.alerts
        self._thresholds = Thresholds(settings.backlog, settings.urgent, settings.paused)
        self._seals = SealWatch(broker.engine)

    @cached_property
    def _telling(self) -> Telling:
        site = self._broker.loaded.site
        return Telling(channels(self._broker), site.alerts.repeat, site.site.name, site.site.public_url or "")

    @cached_property
    def _alerting(self) -> Alerting:
        broker = self._broker
        return Alerting(broker.units_of_work, broker.reports, broker.clock, self._telling)

    @cached_property
    def _database(self) -> DatabaseWatch:
        return DatabaseWatch(self._telling, self._broker.clock)

    @cached_property
    def _resources(self) -> Resources:
        from broker.resources import Resources

        return Resources(self._broker)

    def look(self) -> None:
        """Look once, and hand over what is due."""
        try:
            for alert in self._alerting.look(self.findings()):
                _say(alert)
            self._say_database(self._database.back(), "the database answers again")
            _say_problems(self._alerting.carry())
        except OutOfResources:
            self._say_database(self._database.away(), "the database does not answer")

    def _say_database(self, carried: Carried | None, what: str) -> None:
        if carried is not None:
            log.error("alert", kind="database", state=what, told=carried.sent)
            _say_problems(carried)

    def findings(self) -> list[Finding]:
        """Answer what is wrong now. Raises DatabaseUnavailable."""
        from broker.dashboard import health

        broker = self._broker
        now, reports = broker.clock.now(), broker.reports
        standing = Standing(
            destinations=reports.destinations(now=now),
            overdue=reports.overdue(),
            sources=judge_sources(reports.sources(), now=now, zone=broker.zone),
            health=health(broker),
            resources=self._resources.read(),
            certificates=certificates(broker),
            urgent=reports.urgent(now_local=broker.clock.local_now(), late=LATE),
            audit=self._seals.problems,
        )
        return findings(standing, self._thresholds, now=now)

    def verify(self) -> None:
        """Verify the next part of the chain of events."""
        self._seals.step()

    def forget(self) -> None:
        """Remove alerts that have been over for long."""
        self._alerting.forget()


def _say(alert: Alert) -> None:
    """Log what has changed: the channel that is always there."""
    say = log.warning if alert.state is AlertState.RAISED else log.info
    say(
        "alert",
        alert=alert.id,
        kind=alert.kind.value,
        about=alert.subject,
        state=alert.state.value,
        severity=alert.severity.value,
    )


def _say_problems(carried: Carried) -> None:
    for channel, reason in carried.problems.items():
        log.warning("alert not handed over", channel=channel, reason=reason)
