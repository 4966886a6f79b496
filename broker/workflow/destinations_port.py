"""What the use cases need of destinations: the peers that are sent to, and what workers share about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import ClassVar, Protocol

from broker.domain.delivery import ItemState, Outcome
from broker.workflow.clock import Clock
from broker.workflow.images_port import FactValues


@dataclass(frozen=True, slots=True)
class ParcelItem:
    """One instance to send."""

    id: int
    """Of the delivery item."""
    instance: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    path: Path
    data_set_offset: int
    size_bytes: int
    """Of the whole file."""
    calling_ae_title: str
    facts: FactValues = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one item at the peer."""

    item: int
    state: ItemState
    wire_status: str | None = None
    """Four hex digits, or an HTTP status."""
    reason: str | None = None


Settled = Callable[[Sequence[ItemResult]], None]
"""Makes progress durable and renews the lease. Raises LeaseLost: stop at once, another worker has it."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a destination is asked to send: instances, or bytes."""

    delivery: int
    attempt: int
    items: Iterator[ParcelItem]
    """Ends when nothing waits any more or the slice of time is over."""
    contexts: tuple[tuple[str, str], ...] = ()
    """(SOP Class UID, Transfer Syntax UID) of all items, for negotiation."""
    payload: bytes | None = None
    study_instance_uid: str | None = None
    unit: str = "message"
    first_attempt_reason: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Whether a destination answers, and what it said."""

    ok: bool
    detail: str
    duration_s: float = 0.0


class Destination(Protocol):
    """Somewhere a parcel can be sent. Expected trouble is an Outcome, not an exception."""

    retry_safe: ClassVar[bool]
    """May the same parcel arrive twice?"""

    def check(self) -> CheckResult: ...
    def send(self, parcel: Parcel, settled: Settled) -> Outcome: ...
    def close(self) -> None:
        """Give back connections kept for the next parcel."""
        ...


@dataclass(frozen=True, slots=True)
class DestinationContext:
    """What every plug-in is built with, next to its own options: `Plugin(options, context)`."""

    name: str
    ae_title: str
    """Our own."""
    data_dir: Path
    clock: Clock
    site_name: str = ""


class DestinationHealth(Enum):
    """State of a destination as workers share it."""

    UP = "up"
    FAILING = "failing"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class DestinationState:
    """Pause and breaker of one destination."""

    name: str
    state: DestinationHealth
    since: datetime
    reason: str | None = None
    failures: int = 0
    open_until: datetime | None = None
    last_success_at: datetime | None = None
    held_by: str | None = None
    """Who paused or drains it, when that was a person."""
    resume_at: datetime | None = None
    """A pause or a drain ends by itself then."""
    drain_to: int | None = None
    """Draining: deliveries up to this id are sent, later ones are held."""


class DestinationStates(Protocol):
    """What workers share about destinations."""

    def get(self, name: str) -> DestinationState | None: ...
    def save(self, state: DestinationState) -> None: ...
    def save_check(self, name: str, check: Mapping[str, object], *, now: datetime) -> None:
        """Keep what a test of the destination came to, beside its state."""
        ...

    def all(self) -> list[DestinationState]: ...
