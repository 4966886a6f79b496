"""What people do about alerts: take one in hand, try the channels, and say that work is going on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from broker.domain.alerts import AlertState, Maintenance, Notice
from broker.domain.events import Event, EventName, Subject
from broker.errors import Conflict, IllegalTransition, InvalidValue, MissingValue, NotFound
from broker.workflow.alerts_port import Channel, ChannelFailed, Message, Told
from broker.workflow.clock import Clock
from broker.workflow.idempotency import RequestKey, is_repeat
from broker.workflow.unit_of_work import UnitsOfWork

LONGEST = timedelta(days=31)
_LONGEST_REASON = 500
_LONGEST_SUBJECT = 200


@dataclass(frozen=True, slots=True)
class Planned:
    """A maintenance as somebody asks for it."""

    ends_at: datetime
    reason: str
    actor: str
    subject: str = ""
    starts_at: datetime | None = None
    """None: now."""
    key: RequestKey | None = field(default=None, compare=False)


class AlertOperations:
    """Each operation writes its event in the same transaction. Each raises a BrokerError, and nothing has changed."""

    def __init__(
        self, units_of_work: UnitsOfWork, clock: Clock, channels: Mapping[str, Channel], site_name: str
    ) -> None:
        self._units_of_work = units_of_work
        self._clock = clock
        self._channels = channels
        self._site_name = site_name

    @property
    def channel_names(self) -> Sequence[str]:
        """Answer the channels people are told by."""
        return list(self._channels)

    def acknowledge(self, alert_id: int, *, actor: str, key: RequestKey | None = None) -> bool:
        """Take an alert in hand: no reminder comes. Raises IllegalTransition.

        False when somebody has already, or the same request came before.
        """
        with self._units_of_work() as uow:
            uow.lock("alerts")
            if is_repeat(uow, key, now=self._clock.now()):
                return False
            alert = uow.alerts.get(alert_id, lock=True)
            if alert.state is not AlertState.RAISED:
                raise IllegalTransition("The alert is over.")
            if alert.acknowledged_at is not None:
                if key is not None:
                    uow.commit()  # what is worse than it was is no longer in hand: a repeat must not take it again
                return False
            uow.alerts.save(replace(alert, acknowledged_at=self._clock.now(), acknowledged_by=actor))
            details = {"kind": alert.kind.value, "about": alert.subject, "alert": alert.id}
            uow.record(
                Event(EventName.ALERT_ACKNOWLEDGED, Subject.SYSTEM, alert.id, actor=actor, details=details)
            )
            uow.commit()
        return True

    def plan(self, planned: Planned) -> int:
        """Store a maintenance, answer its id; with a key that was used before, that of then. Raises InvalidValue."""
        now = self._clock.now()
        reason, subject = planned.reason.strip(), planned.subject.strip()
        starts_at = planned.starts_at or now
        if not reason:
            raise MissingValue("reason: say why", field="reason")
        for name, text, most in (
            ("reason", reason, _LONGEST_REASON),
            ("subject", subject, _LONGEST_SUBJECT),
        ):
            if len(text) > most or "\x00" in text:
                raise InvalidValue(f"{name}: at most {most} characters", field=name)
        if planned.ends_at <= max(starts_at, now):
            raise InvalidValue("until: must lie ahead, after the beginning", field="until")
        if planned.ends_at - starts_at > LONGEST or starts_at > now + timedelta(days=366):
            raise InvalidValue(f"until: {LONGEST.days} days at most, within a year", field="until")
        window = Maintenance(0, starts_at, planned.ends_at, subject, reason, planned.actor)
        with self._units_of_work() as uow:
            if planned.key is not None and is_repeat(uow, planned.key, now=now):
                known = uow.keys.subject(planned.key.value)
                if known is None:
                    raise Conflict("This was asked before, and came to nothing.")
                return known
            key = uow.alerts.add_maintenance(window)
            if planned.key is not None:
                uow.keys.note(planned.key.value, key)
            details = {
                "about": subject or "everything",
                "from": starts_at.isoformat(),
                "until": planned.ends_at.isoformat(),
                "reason": reason,
            }
            uow.record(
                Event(
                    EventName.MAINTENANCE_PLANNED, Subject.SYSTEM, key, actor=planned.actor, details=details
                )
            )
            uow.commit()
        return key

    def end(self, window_id: int, *, actor: str, key: RequestKey | None = None) -> bool:
        """End a maintenance, or call a planned one off; False when it is over, or the same request came before."""
        now = self._clock.now()
        with self._units_of_work() as uow:
            if is_repeat(uow, key, now=now):
                return False
            window = uow.alerts.maintenance(window_id)
            if window.ended_at is not None or window.ends_at <= now:
                return False
            uow.alerts.end_maintenance(window_id, by=actor, now=now)
            details = {"about": window.subject or "everything"}
            uow.record(
                Event(EventName.MAINTENANCE_ENDED, Subject.SYSTEM, window_id, actor=actor, details=details)
            )
            uow.commit()
        return True

    def test(self, name: str = "") -> dict[str, str]:
        """Send a test over one channel or all; answer for each what went wrong, empty when nothing did.

        Raises NotFound when there is no such channel.
        """
        chosen = {one: channel for one, channel in self._channels.items() if name in {"", one}}
        if not chosen:
            raise NotFound(f"There is no channel {name}." if name else "No channel is configured.")
        now = self._clock.now()
        headline, action = "This is a test of the alerts", "Nothing is wrong; nothing is to be done."
        line = Told(Notice.TEST, "test", "", "notice", headline, action, "/alerts", now)
        said = {}
        for one, channel in chosen.items():
            message = Message(f"test-{one}-{now:%Y%m%d%H%M%S%f}", self._site_name, now, [line])
            try:
                channel.send(message)
                said[one] = ""
            except ChannelFailed as error:
                said[one] = str(error)
        return said
