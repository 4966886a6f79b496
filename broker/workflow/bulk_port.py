"""What the use cases need of operations on many deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol

from broker.workflow.selection import Selection


class BulkState(Enum):
    """Where an operation on many deliveries stands."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    STOPPED = "STOPPED"
    """A person stopped it; what it has done stays done."""


@dataclass(frozen=True, slots=True)
class BulkOperation:
    """One act on many deliveries, worked off in slices."""

    id: int
    act: str
    selection: Selection
    arguments: Mapping[str, str | int]
    actor: str
    reason: str | None
    state: BulkState
    expected: int
    created_at: datetime
    updated_at: datetime
    position: int = 0
    changed: int = 0
    skipped: int = 0
    skipped_why: Mapping[str, int] = field(default_factory=dict)


class BulkOperations(Protocol):
    """Stored operations on many deliveries."""

    def add(self, operation: BulkOperation) -> int: ...
    def get(self, operation: int, *, lock: bool = False) -> BulkOperation:
        """Answer one, locked for this transaction if asked. Raises NotFound."""
        ...

    def save(self, operation: BulkOperation) -> None: ...
    def running(self) -> list[int]:
        """Answer those that are not over, oldest first."""
        ...
