"""What alerting needs of the world: its rows, the channels that carry notices, and what is read about alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.domain.alerts import Alert, Maintenance, Notice
from broker.errors import BrokerError


class ChannelFailed(BrokerError):
    """The notice could not be handed over."""


@dataclass(frozen=True, slots=True)
class Told:
    """One line of a message: what is to be told about one alert."""

    notice: Notice
    kind: str
    subject: str
    severity: str
    headline: str
    action: str
    link: str
    """A whole address where the site's is known, else a path."""
    since: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """What a channel carries: everything there is to tell now, the worst first. No patient is named."""

    id: str
    site: str
    at: datetime
    lines: Sequence[Told]


class Channel(Protocol):
    """Carries messages to people or machines."""

    @property
    def name(self) -> str: ...
    def send(self, message: Message) -> None:
        """Hand a message over. Raises ChannelFailed, which names no secret."""
        ...


@dataclass(frozen=True, slots=True)
class StoredNotice:
    """What a channel still has to carry about an alert."""

    id: int
    channel: str
    notice: Notice
    alert: Alert
    attempts: int
    due_at: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NoticeLine:
    """What became of one notice."""

    id: int
    channel: str
    notice: str
    state: str
    """WAITING, SENT or FAILED (given up)."""
    attempts: int
    said: str | None
    """Why the last try failed."""
    created_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Overdue:
    """What one destination is owed now; what still waits for more images is not."""

    destination: str
    waiting: int
    oldest: datetime
    urgent: int
    """Of STAT orders."""
    oldest_urgent: datetime | None


class Alerts(Protocol):
    """Stored alerts, notices and maintenance windows."""

    def open(self) -> Sequence[Alert]:
        """Answer what is pending or raised."""
        ...

    def add(self, alert: Alert) -> int:
        """Store a new alert (its `id` is ignored), answer its id; raises DuplicateKey while one like it is open."""
        ...

    def save(self, alert: Alert) -> None: ...
    def remove(self, alert: int) -> None:
        """Forget one that was never raised."""
        ...

    def get(self, alert: int, *, lock: bool = False) -> Alert:
        """Answer one. Raises NotFound."""
        ...

    def add_notice(self, alert: int, channel: str, notice: Notice, *, now: datetime) -> int: ...
    def settle_notices(
        self, notices: Sequence[int], *, state: str, said: str | None, due_at: datetime, now: datetime
    ) -> None:
        """Store what became of a try."""
        ...

    def add_maintenance(self, window: Maintenance) -> int: ...
    def maintenance(self, window: int) -> Maintenance:
        """Answer one, locked for this transaction. Raises NotFound."""
        ...

    def end_maintenance(self, window: int, *, by: str, now: datetime) -> None: ...
    def forget(self, *, before: datetime) -> int:
        """Remove alerts that recovered before an instant, answer how many."""
        ...


class AlertReports(Protocol):
    """Reads about alerts; each is one or few bounded statements."""

    def open_alerts(self) -> Sequence[Alert]:
        """Answer what is pending or raised, the worst first; at most 500."""
        ...

    def recent_alerts(self, *, before: int | None = None, limit: int = 50) -> Sequence[Alert]:
        """Answer those that have recovered, newest first; `before` is the id of the last one seen."""
        ...

    def alert(self, alert_id: int) -> Alert:
        """Answer one. Raises NotFound."""
        ...

    def notices(self, alert_ids: Sequence[int]) -> dict[int, Sequence[NoticeLine]]:
        """Answer what was told about alerts, oldest first."""
        ...

    def due_notices(self, *, now: datetime, limit: int = 200) -> Sequence[StoredNotice]:
        """Answer what is to be carried now, oldest first."""
        ...

    def maintenance_windows(self, *, now: datetime) -> Sequence[Maintenance]:
        """Answer those that are not over, by their beginning; at most 200."""
        ...

    def overdue(self) -> Sequence[Overdue]:
        """Answer since when what could be sent waits, by destination."""
        ...
