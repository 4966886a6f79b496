"""The audit trail as people search it: who did or looked at what, when and from where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AuditQuestion:
    """What is asked of the trail; what is empty is not asked for. One kind of subject at a time."""

    actor: str = ""
    patient: str = ""
    """Patient ID; finds what concerns the orders and studies of every patient with this id."""
    order: int | None = None
    study_instance_uid: str = ""
    since: datetime | None = None
    until: datetime | None = None
    what: str = ""
    """Name of an event."""


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One event of the trail."""

    id: int
    at: datetime
    what: str
    actor: str
    address: str
    subject: str
    subject_id: int | None
    study_instance_uid: str | None
    order: int | None
    details: Mapping[str, object]
    is_sealed: bool


class AuditReports(Protocol):
    """Reads of the trail."""

    def audit(
        self, question: AuditQuestion, *, before: int | None = None, limit: int = 50
    ) -> Sequence[AuditLine]:
        """Answer events that fit, newest first; `before` is the id of the last one seen."""
        ...

    def audit_file(self, question: AuditQuestion) -> Sequence[AuditLine]:
        """Answer every event that fits, newest first, as many as a file holds."""
        ...


class Verification(Protocol):
    """What a walk along the chain of the trail found."""

    @property
    def sealed(self) -> int:
        """Events whose seal was checked."""
        ...

    @property
    def unsealed(self) -> int:
        """Events that wait for the sealer."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """Empty: nothing was changed, taken out or cut off since it was sealed."""
        ...
