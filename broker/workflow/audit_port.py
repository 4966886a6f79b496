"""The audit trail as people search it, and as collectors of audit messages are sent it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.domain.audit_message import AuditMessage


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

    @property
    def words(self) -> str:
        """Say what is asked, for the record of who asked it."""
        asked = {
            "person": self.actor,
            "patient": self.patient,
            "order": self.order,
            "study": self.study_instance_uid,
            "from": self.since and self.since.isoformat(timespec="minutes"),
            "until": self.until and self.until.isoformat(timespec="minutes"),
            "what": self.what,
        }
        return "; ".join(f"{key} {value}" for key, value in asked.items() if value)


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


@dataclass(frozen=True, slots=True)
class PatientNamed:
    """The patient an event is about."""

    patient_id: str
    issuer: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class TrailEvent:
    """A sealed event with what an audit message tells of its objects, as they are now."""

    number: int
    """Its place in the chain."""
    at: datetime
    name: str
    subject: str
    subject_id: int | None
    study_instance_uid: str | None
    order: int | None
    actor: str
    details: Mapping[str, object]
    patient: PatientNamed | None = None
    accession_number: str = ""
    destination: str = ""
    """Of a delivery, with its kind."""
    destination_kind: str = ""
    instances: int | None = None
    """How many objects a delivery has."""
    mpps: str = ""
    """SOP Instance UID of a performed step."""
    sop_class_uid: str = ""
    """Of an instance."""


@dataclass(frozen=True, slots=True)
class CollectorState:
    """How far a collector of audit messages has been told."""

    name: str
    number: int
    """The place in the chain up to which everything was handed over and the connection lived on."""
    handed_over_at: datetime | None = None
    """When the last message was."""
    failing_since: datetime | None = None
    problem: str = ""


class CollectorAway(Exception):
    """The collector cannot be reached, or has left; its text says how."""


class Collector(Protocol):
    """Takes audit messages. What it has said it took may still be lost when the connection ends just then."""

    @property
    def name(self) -> str:
        """Answer its name in the site file."""
        ...

    def hand_over(self, number: int, message: AuditMessage) -> None:
        """Put one message on the wire; `number` is its event's place in the chain. Raises CollectorAway."""
        ...

    @property
    def settle_s(self) -> float:
        """Answer how long a connection must live on after a message for it to count as taken."""
        ...

    def has_arrived(self, *, wait_s: float = 0.0) -> bool:
        """Tell whether all octets are there, having listened so long for its leaving. Raises CollectorAway."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


class AuditCollectors(Protocol):
    """Stored places of collectors in the chain."""

    def add(self, name: str, number: int, *, now: datetime) -> None:
        """Begin with a collector behind a place, unless it is known."""
        ...

    def claim(self, name: str, owner: str, *, now: datetime, until: datetime) -> int | None:
        """Let one process send to it; answer its place, None while another one sends."""
        ...

    def advance(self, name: str, owner: str, number: int, *, now: datetime, sent: bool) -> bool:
        """Move its place; False when another process sends to it by now. `sent`: messages were handed over."""
        ...

    def failed(self, name: str, owner: str, problem: str, *, now: datetime) -> None:
        """Keep since when, and why, it cannot be sent to."""
        ...


class TrailReports(Protocol):
    """Reads of the trail for those who send it on."""

    def trail(self, *, after: int, limit: int) -> Sequence[TrailEvent]:
        """Answer sealed events behind a place in the chain, in its order."""
        ...

    def trail_end(self) -> int:
        """Answer the place of the last sealed event."""
        ...

    def unsent_since(self, number: int) -> datetime | None:
        """Answer when the first event behind a place happened; None when it is the last."""
        ...

    def collectors(self) -> Sequence[CollectorState]:
        """Answer every collector that was ever sent to."""
        ...


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
