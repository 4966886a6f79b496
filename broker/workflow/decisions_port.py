"""What the use cases need of routing decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.workflow.images_port import FactValues


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """One routing decision as kept."""

    id: int
    instance: int
    study_instance_uid: str
    configuration: int
    decided_at: datetime
    facts: FactValues
    routes: tuple[str, ...]
    conflicts: tuple[str, ...] = ()


class Decisions(Protocol):
    """Routing decisions and the configuration versions that made them."""

    def add(self, decision: StoredDecision) -> int: ...
    def add_many(self, decisions: Sequence[StoredDecision]) -> None:
        """Store decisions in one statement."""
        ...

    def of_study(self, study_instance_uid: str) -> list[StoredDecision]: ...
    def configuration_body(self, configuration: int) -> str: ...
    def record_configuration(self, sha256: str, body: str, *, by: str, now: datetime) -> int:
        """Store a configuration version once, answer its id."""
        ...
