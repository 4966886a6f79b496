"""What monitoring reads of the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Numbers:
    """What happened since an instant, and what waits now."""

    messages: Mapping[str, int]
    """By outcome."""
    orders: Mapping[str, int]
    """That were changed, by the status they have now."""
    queries: Mapping[str, int]
    """Of the worklist, by AE title."""
    exams: Mapping[str, int]
    """What was heard of performed steps, by the name of the event."""
    instances: int
    received_bytes: int
    deliveries: Mapping[tuple[str, str], int]
    """Not done, by destination and state."""
    delivered: Mapping[str, int]
    """By destination."""
    seconds: Mapping[str, Sequence[float]]
    """From being planned to being delivered, by destination; of the newest deliveries."""
    failures: Mapping[tuple[str, str], int]
    """Tries that failed, by destination and class of failure."""
    knocks: Mapping[str, int]
    """Who was refused an association, titles and addresses, by reason."""


class MetricReports(Protocol):
    """Reads for monitoring."""

    def numbers(self, *, since: datetime) -> Numbers:
        """Count what happened since an instant, and what waits now."""
        ...
