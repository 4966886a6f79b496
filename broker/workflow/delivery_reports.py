"""What people read of deliveries and destinations beside the lists: groups, previews, rates, conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from broker.domain.delivery import DeliveryState
from broker.workflow.bulk_port import BulkOperation
from broker.workflow.selection import Selection


@dataclass(frozen=True, slots=True)
class CauseLine:
    """The dead of one cause at one destination."""

    cause: str
    title: str
    advice: str
    destination: str
    deliveries: int
    oldest: datetime
    newest: datetime


@dataclass(frozen=True, slots=True)
class SelectionCount:
    """How many deliveries of a selection go to one destination and are in one state."""

    destination: str
    kind: str
    state: str
    deliveries: int
    images: int
    """Not yet delivered."""


@dataclass(frozen=True, slots=True)
class Volume:
    """How much there is to send."""

    bytes: int
    is_exact: bool
    """False: an estimate from the newest."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a destination has taken what it was sent lately."""

    deliveries: int
    """How many it is measured by."""
    delivery_s: float
    """Seconds per delivery, one after the other."""
    image_s: float | None
    """Seconds per image; None where there are none."""


@dataclass(frozen=True, slots=True)
class ItemLine:
    """One image of a delivery."""

    item: int
    instance: int
    sop_instance_uid: str
    modality: str | None
    size_bytes: int
    state: str
    wire_status: str | None
    reason: str | None
    sends: int
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class RateBin:
    """What was delivered from one instant to the next bin."""

    at: datetime
    deliveries: int
    images: int


@dataclass(frozen=True, slots=True)
class FailureLine:
    """How often something went wrong lately."""

    cause: str
    title: str
    tries: int
    last: datetime
    example: str


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """What one try came to."""

    at: datetime
    delivery: int
    outcome: str
    """Name of its event."""
    attempt: int
    reason: str | None = None
    duration_s: float | None = None
    sent: int | None = None
    wire: tuple[str, ...] = ()
    """Statuses the peer answered, with their number."""
    study_instance_uid: str | None = None


@dataclass(frozen=True, slots=True)
class CheckLine:
    """What the last test of a destination came to."""

    at: datetime
    said: Mapping[str, object] = field(default_factory=dict)


class DeliveryReports(Protocol):
    """Reads about deliveries and destinations; every method is one or few bounded statements."""

    def causes(self, selection: Selection) -> Sequence[CauseLine]:
        """Group the dead of a selection by cause and destination, the largest group first."""
        ...

    def counts(self, selection: Selection) -> Sequence[SelectionCount]:
        """Count what a selection means by destination and state."""
        ...

    def blocked(self, selection: Selection) -> int:
        """Count those that are over while another delivery of the same unit is open."""
        ...

    def volume(self, selection: Selection, states: Sequence[DeliveryState], *, images: int) -> Volume:
        """Answer how much the images come to that are still to be sent, as many as were counted."""
        ...

    def newest_delivery(self) -> int:
        """Answer the id of the delivery planned last; 0 when there is none."""
        ...

    def speed(self, destination: str) -> Speed | None:
        """Answer how fast a destination was lately; None when nothing was delivered."""
        ...

    def items(self, delivery: int, *, after: int = 0, limit: int = 50) -> Sequence[ItemLine]:
        """List the images of a delivery: refused ones first, then those that wait, then the delivered."""
        ...

    def items_behind(self, delivery: int, *, item: int = 0, limit: int = 50) -> Sequence[ItemLine]:
        """List the images of a delivery in the order they came to it, those behind one."""
        ...

    def rate(self, destination: str, *, since: datetime, bin_s: int) -> Sequence[RateBin]:
        """Answer what was delivered in each bin since an instant; bins without anything are left out."""
        ...

    def failures(self, destination: str, *, since: datetime) -> Sequence[FailureLine]:
        """Group the tries that failed since an instant by cause, the commonest first."""
        ...

    def conversation(self, destination: str, *, limit: int = 20) -> Sequence[AttemptLine]:
        """List the last tries, newest first."""
        ...

    def last_check(self, destination: str) -> CheckLine | None:
        """Answer what the last test of a destination came to."""
        ...

    def operation(self, operation: int) -> BulkOperation:
        """Answer an operation on many deliveries. Raises NotFound."""
        ...

    def operations(self, *, before: int | None = None, limit: int = 20) -> Sequence[BulkOperation]:
        """List operations on many deliveries, newest first."""
        ...
