"""A clock that moves when told to."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo


@dataclass
class FakeClock:
    """Implements the Clock port; starts on a Saturday morning."""

    instant: datetime = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
    zone: tzinfo = UTC
    elapsed_s: float = field(default=0.0)

    def now(self) -> datetime:
        """Answer the instant it was set to."""
        return self.instant

    def local_now(self) -> datetime:
        """Answer the same in the site's zone."""
        return self.instant.astimezone(self.zone)

    def monotonic(self) -> float:
        """Answer how far it was moved forward."""
        return self.elapsed_s

    def advance(self, step: timedelta | float) -> None:
        """Let time pass (seconds, or a timedelta)."""
        step = step if isinstance(step, timedelta) else timedelta(seconds=step)
        self.instant += step
        self.elapsed_s += step.total_seconds()

    def jump(self, step: timedelta) -> None:
        """Set the wall clock without letting time pass, as an operator or a time server does."""
        self.instant += step
