"""What monitoring reads of the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Numbers:
    """What happened since an instant, and what waits now."""

    messages: Mapping[str, int]
    """By outcome."""
    instances: int
    received_bytes: int
    deliveries: Mapping[tuple[str, str], int]
    """Not done, by destination and state."""
    delivered: Mapping[str, int]
    """By destination."""
    failures: Mapping[tuple[str, str], int]
    """Tries that failed, by destination and class of failure."""


class MetricReports(Protocol):
    """Reads for monitoring."""

    def numbers(self, *, since: datetime) -> Numbers:
        """Count what happened since an instant, and what waits now."""
        ...
