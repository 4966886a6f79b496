"""What the pages of devices, and the listeners, read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.domain.rhythm import Rhythm
from broker.workflow.devices_port import Admission, Conversation, Knocks, Sign
from broker.workflow.reports_port import WorklistLine


@dataclass(frozen=True, slots=True)
class HeardDevice:
    """What one device did last."""

    signs: Mapping[str, Sign]
    rhythm: Rhythm | None = None
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StartTime:
    """When an exam began by the device's clock, and when we were told (N-CREATE)."""

    said: str
    """`YYYYMMDDHHMMSS`, the site's wall clock."""
    at: datetime


class DeviceReports(Protocol):
    """Reads for the pages of devices."""

    def heard_devices(self) -> Mapping[str, HeardDevice]:
        """Answer what every AE title did last, with its rhythm."""
        ...

    def knocks(
        self, *, ae_title: str | None = None, before: int | None = None, limit: int = 200
    ) -> Sequence[Knocks]:
        """Answer who knocked in vain, the newest first; `before` is the id of the last one seen."""
        ...

    def admitted(self, *, now: datetime) -> Sequence[Admission]:
        """Answer who is let in now; every listener asks once a second."""
        ...

    def admissions(
        self, *, ae_title: str | None = None, before: int | None = None, limit: int = 50
    ) -> Sequence[Admission]:
        """Answer who was let in for a time, the newest first; `before` is the id of the last one seen."""
        ...

    def conversations(self, ae_title: str) -> Sequence[Conversation]:
        """Answer the last associations of a device, the newest first."""
        ...

    def exam_starts(self, ae_titles: Sequence[str]) -> Mapping[str, Sequence[StartTime]]:
        """Answer the newest exams of devices as their own clocks dated them."""
        ...

    def worklist_steps(self, steps: Sequence[int]) -> Sequence[WorklistLine]:
        """Answer these steps, in this order."""
        ...
