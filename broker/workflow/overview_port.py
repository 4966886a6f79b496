"""What the overview, the badges of the rail and the morning handover read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from broker.domain.rhythm import Rhythm

MOST_COUNTED = 1000
"""A badge counts no further: it stands on every page, and ten thousand say no more than a thousand."""


@dataclass(frozen=True, slots=True)
class NeedsPerson:
    """How many things wait for a person, each counted to MOST_COUNTED + 1 at most."""

    dead_deliveries: int = 0
    parked_messages: int = 0
    incomplete_orders: int = 0
    unrouted_studies: int = 0
    refused_devices: int = 0
    """Devices that were refused lately."""
    silent_sources: int = 0
    """Senders and devices with an open alert of their silence."""


@dataclass(frozen=True, slots=True)
class HealthPart:
    """One listener or role."""

    name: str
    ok: bool
    detail: str
    beat_at: datetime | None = None


COLLECTOR = "Audit collector "
"""What the names of collectors among the resources begin with."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What the roles stand on."""

    name: str
    state: str
    """up, away (done without for now), filling, full or down."""
    detail: str
    advice: str = ""
    """What to do when it is not up."""
    link: str = "/#parts"
    """Where more is to be seen."""
    told: str = ""
    """What may leave the house of the detail; empty: all of it."""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """Somebody who talks to us."""

    kind: str
    """sender or device."""
    name: str
    """Sending application, or AE title."""
    facility: str
    peer: str
    """Host of a sender."""
    last_at: datetime
    last_what: str
    """message, images, list or exam."""
    rhythm: Rhythm


@dataclass(frozen=True, slots=True)
class Urgent:
    """Patients who wait, or may."""

    overdue_arrived: int
    """Steps of the last 24 hours whose patient has arrived and whose start is past by more than was asked for."""
    overdue_stat: int
    """STAT steps of the last 24 hours that have not begun although their start is past."""
    incomplete_stat: int
    """STAT steps no scanner is offered, because something is missing."""


@dataclass(frozen=True, slots=True)
class Trend:
    """How one destination fares."""

    destination: str
    delivered: tuple[int, ...]
    """Deliveries done in each of the last hours, oldest first; the last is the hour until now."""
    delivered_lately: int
    """In the last 15 minutes."""
    failed_last_hour: int
    """Tries that failed in the last hour, and deliveries that died."""
    stat_waiting: int
    """Waiting deliveries of STAT orders."""


@dataclass(frozen=True, slots=True)
class DestinationState:
    """One destination: its queue, how it fares, and when it will be through."""

    destination: str
    state: str
    reason: str | None
    waiting: int
    stat_waiting: int
    oldest: datetime | None
    dead: int
    delivered: tuple[int, ...]
    """In each of the last hours, oldest first."""
    delivered_last_hour: int
    failed_last_hour: int
    last_success_at: datetime | None
    drains_in: timedelta | None
    """At the rate of the last minutes; None where nothing waits or nothing moves."""
    held_by: str | None = None
    """Who paused or drains it, when that was a person."""
    resume_at: datetime | None = None
    """Its pause or drain ends by itself then."""
    stat_dead: int = 0
    """Those of STAT orders among the dead."""

    @property
    def failed_percent(self) -> float | None:
        """Answer how many of the tries of the last hour failed; None without a try."""
        tries = self.delivered_last_hour + self.failed_last_hour
        return 100 * self.failed_last_hour / tries if tries else None


@dataclass(frozen=True, slots=True)
class Storage:
    """What received images take."""

    image_bytes: int | None
    """As last measured; None before the first time."""
    bytes_per_day: int
    """Received on an average day of the last week, or of what there is of it."""


@dataclass(frozen=True, slots=True)
class ShiftCounts:
    """What happened in a span."""

    messages: Mapping[str, int]
    """By outcome."""
    orders: int
    completed: int
    instances: int
    studies: int
    deliveries: int
    delivered: int
    destination_events: Sequence[tuple[datetime, str, str]]
    """When, what (the event's name) and which destination, oldest first; the newest 500."""
    refused_devices: Mapping[str, int]
    """How often, by AE title."""
    deeds: Sequence[tuple[str, str, int]]
    """Who, what (the event's name), how often; without what the broker does by itself."""
    died: int


@dataclass(frozen=True, slots=True)
class HeldDestination:
    """A destination that is not up."""

    destination: str
    state: str
    since: datetime
    reason: str | None


class OverviewReports(Protocol):
    """Reads for the overview; every method is one or few bounded statements."""

    def needs_person(self, *, refused_since: datetime) -> NeedsPerson:
        """Count what waits for a person; devices by their refusals since an instant."""
        ...

    def sources(self) -> Sequence[SourceLine]:
        """Answer who was heard in the last weeks, senders and devices."""
        ...

    def urgent(self, *, now_local: datetime, late: timedelta) -> Urgent:
        """Count patients who wait: steps of the site's today whose start is past by more than `late`."""
        ...

    def trends(self, *, now: datetime, hours: int = 12) -> Sequence[Trend]:
        """Answer how every destination to which something goes has fared lately."""
        ...

    def storage(self, *, now: datetime) -> Storage:
        """Answer what received images take and how fast that grows."""
        ...

    def shift(self, *, since: datetime, until: datetime) -> ShiftCounts:
        """Count what happened in a span."""
        ...

    def held_destinations(self) -> Sequence[HeldDestination]:
        """Answer the destinations that are not up, the longest held first."""
        ...
