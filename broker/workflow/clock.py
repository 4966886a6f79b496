"""Time, as everything sees it, and that of this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Protocol


class Clock(Protocol):
    """Time, injected."""

    def now(self) -> datetime:
        """Answer the instant, aware, UTC."""
        ...

    def local_now(self) -> datetime:
        """Answer the site's wall clock, aware."""
        ...

    def monotonic(self) -> float:
        """Answer seconds that never step."""
        ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """Time of this machine, with the site's zone for wall-clock questions."""

    zone: tzinfo = UTC

    def now(self) -> datetime:
        """Answer the instant, aware, UTC."""
        return datetime.now(UTC)

    def local_now(self) -> datetime:
        """Answer the site's wall clock, aware."""
        return datetime.now(self.zone)

    def monotonic(self) -> float:
        """Answer seconds that never step."""
        return time.monotonic()
