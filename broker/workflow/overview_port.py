"""What the overview, the badges of the rail and the morning handover read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

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


class OverviewReports(Protocol):
    """Reads for the overview; every method is one or few bounded statements."""

    def needs_person(self, *, refused_since: datetime) -> NeedsPerson:
        """Count what waits for a person; devices by their refusals since an instant."""
        ...
