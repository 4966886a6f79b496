"""A task queue that remembers what it was asked to wake."""

from __future__ import annotations

from collections.abc import Iterable

from broker.workflow.wake_ups import Task, WakeUp


class RecordingTaskQueue:
    """Implements the TaskQueue port."""

    def __init__(self) -> None:
        self.wake_ups: list[WakeUp] = []

    def wake(self, wake_ups: Iterable[WakeUp]) -> None:
        """Remember them in order."""
        self.wake_ups.extend(wake_ups)

    def ids(self, task: Task) -> list[int]:
        """Answer the ids one task was woken with."""
        return [wake_up.id for wake_up in self.wake_ups if wake_up.task is task]

    def take(self) -> list[WakeUp]:
        """Answer what has come since the last take."""
        taken, self.wake_ups = self.wake_ups, []
        return taken
