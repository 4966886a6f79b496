"""The vocabulary of sending: who sends, where to, within which bounds, and what a try came to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from broker.domain.delivery import RetryPolicy
from broker.domain.events import Event, EventName, Subject
from broker.domain.settlement import Settlement
from broker.workflow.clock import Clock
from broker.workflow.deliveries_port import Delivery
from broker.workflow.destination_health import BreakerPolicy
from broker.workflow.destinations_port import Destination
from broker.workflow.images_port import FileStore
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork

Detail = str | float | bool | list[str] | None

KeepAlive = Callable[[Callable[[], bool]], AbstractContextManager[None]]
"""Calls the function it is given from time to time while the block runs, until it answers False."""


def no_renewal(renew: Callable[[], bool]) -> AbstractContextManager[None]:
    """Renew nothing: for tries that are shorter than their lease."""
    del renew
    return nullcontext()


GiveUp = Callable[[Callable[[], None]], None]
"""Calls the function it is given, again until it raises nothing: it hands back what could not be settled."""


def leave_to_the_sweep(release: Callable[[], None]) -> None:
    """Call nothing: the lease runs out."""
    del release


@dataclass(frozen=True, slots=True)
class DestinationEntry:
    """A configured destination: its plug-in, and what is kept outside of the plug-in."""

    name: str
    kind: str
    plugin: Destination
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    safekeeping: bool = False
    concurrency: int = 2
    """Deliveries in progress at once, over all workers."""


class Wired(Protocol):
    """What sending needs of the wired broker."""

    @property
    def units_of_work(self) -> UnitsOfWork:
        """Answer what opens a transaction."""
        ...

    @property
    def clock(self) -> Clock:
        """Answer the time."""
        ...

    @property
    def files(self) -> FileStore:
        """Answer the store the items' paths are relative to."""
        ...

    def destination(self, name: str) -> DestinationEntry:
        """Answer a configured destination. Raises NotFound."""
        ...

    def destination_names(self) -> Iterable[str]:
        """Answer the names of the configured destinations."""
        ...


@dataclass(frozen=True, slots=True)
class SendingLimits:
    """Bounds of one worker's grip on a delivery."""

    lease: timedelta = timedelta(seconds=90)
    slice_s: float = 60.0
    """Then the rest waits for its next turn."""
    drain_s: float = 5.0
    """How long a worker goes on with further deliveries to the same destination."""
    page_items: int = 100
    first_internal_delay_s: float = 60.0
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)


@dataclass(frozen=True, slots=True)
class Worker:
    """Who sends."""

    name: str
    limits: SendingLimits = field(default_factory=SendingLimits)
    keep_alive: KeepAlive = no_renewal
    is_stopping: Callable[[], bool] = lambda: False
    give_up: GiveUp = leave_to_the_sweep


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one try came to."""

    delivery: int
    destination: str
    kind: str
    attempt: int
    settlement: Settlement | None
    """None: the lease was lost, or the database; whoever holds the row now settles it."""
    duration_s: float
    items_settled: int = 0
    defect: tuple[str, ...] = ()
    """Frames of an exception, without its values."""


def record_move(
    uow: UnitOfWork,
    delivery: Delivery,
    name: EventName,
    *,
    actor: str = "broker",
    details: Mapping[str, Detail] | None = None,
) -> None:
    """Write the event of a transition."""
    uow.record(
        Event(
            name,
            Subject.DELIVERY,
            subject_id=delivery.id,
            study_instance_uid=delivery.study_instance_uid,
            order=delivery.order,
            actor=actor,
            details={"destination": delivery.destination, **(details or {})},
        )
    )
