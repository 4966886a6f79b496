"""What the overview, the badges of the rail and the morning handover read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
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


class OverviewReports(Protocol):
    """Reads for the overview; every method is one or few bounded statements."""

    def needs_person(self, *, refused_since: datetime) -> NeedsPerson:
        """Count what waits for a person; devices by their refusals since an instant."""
        ...

    def sources(self) -> Sequence[SourceLine]:
        """Answer who was heard in the last weeks, senders and devices."""
        ...
