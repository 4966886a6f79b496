"""What wakes a worker: a hint that a row has work, published after its transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Task(Enum):
    """Names of the Celery tasks; the value is the name on the wire."""

    ROUTE = "workers.route"
    DELIVER = "workers.deliver"


@dataclass(frozen=True, slots=True)
class WakeUp:
    """A hint that a row has work: lost, doubled or late, it does no harm."""

    task: Task
    id: int
    destination_kind: str | None = None
    """Chooses the Celery queue of a DELIVER."""
    destination: str | None = None
    """Lets a burst of wake-ups for one destination become a few: a worker goes on with what is due there."""


class TaskQueue(Protocol):
    """Publishes wake-ups from a thread of its own; never blocks, never raises."""

    def wake(self, wake_ups: Iterable[WakeUp]) -> None:
        """Publish them, some time soon."""
        ...
