"""What the use cases need of performed procedure steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from broker.domain.orders import WorklistEntry
from broker.domain.steps import PerformedStatus


@dataclass(frozen=True, slots=True)
class PerformedStep:
    """A stored performed procedure step. `data_set`: merged state, Explicit VR Little Endian."""

    id: int
    sop_instance_uid: str
    status: PerformedStatus
    calling_ae_title: str
    data_set: bytes
    performed_station_ae_title: str | None = None
    modality: str | None = None
    patient_id: str | None = None
    study_instance_uids: tuple[str, ...] = ()
    series: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    started_at: str | None = None
    ended_at: str | None = None
    discontinuation_reason: str | None = None
    matched: bool = False
    patient_mismatch: bool = False


class PerformedSteps(Protocol):
    """Stored performed procedure steps and their links."""

    def find(self, sop_instance_uid: str, *, lock: bool = False) -> PerformedStep | None: ...
    def add(self, step: PerformedStep, *, now: datetime) -> PerformedStep:
        """Store it; raises DuplicateKey when the UID exists."""
        ...

    def save(self, step: PerformedStep, *, now: datetime) -> None: ...
    def link(self, performed: int, step: int) -> None: ...
    def steps_of(self, performed: int) -> list[int]: ...
    def performed_of(self, step: int) -> list[PerformedStep]: ...
    def of_study(self, study_instance_uid: str) -> list[PerformedStep]: ...


class StatusMessages(Protocol):
    """Writes the HL7 status message of a step change for the RIS."""

    def status_message(
        self, entry: WorklistEntry, performed: PerformedStep, status: PerformedStatus
    ) -> bytes: ...
