"""What a site decides about orders, and what became of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from uuid import UUID, uuid4

UNASSIGNED_AE_TITLE = "UNASSIGNED"
"""Stands where no station is known, because the element may not be empty (PS3.4 table K.6-1)."""


class MissingStudyUid(Enum):
    """What to do when an order comes without a Study Instance UID."""

    DERIVE = "derive"
    """From accession number and requested procedure id, the same every time."""
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class OrderPolicy:
    """What a site decides about orders. Built from the site file; every default is the careful one."""

    uid_namespace: UUID
    """Fixed for the life of an installation: derived Study Instance UIDs depend on it."""
    stations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modality -> AE titles of its devices: where a step may be done that names no station."""
    study_uid_missing: MissingStudyUid = MissingStudyUid.DERIVE
    allow_change_after_start: bool = False
    move_order: bool = False
    """An order changed under another patient moves there instead of being parked."""
    reopen: bool = False
    """XO may bring a cancelled or discontinued order back."""
    create_completed: bool = False
    """An order first heard of as completed is created."""
    refuse_unknown_change: bool = False
    refuse_unknown_cancel: bool = False
    discontinued_before_start_is_canceled: bool = False
    timestamp_sources: frozenset[str] = frozenset()
    """Sending applications whose event times advance: an older event is parked, not applied."""
    arrival_events: frozenset[str] = frozenset()
    """ADT events that mean the patient has arrived (`A10`)."""
    tombstone: timedelta = timedelta(hours=24)
    """How long a cancel of an unknown order holds back an older order that comes late."""
    reuse_after: timedelta = timedelta(days=90)
    """Since when an order must be final for its accession number to name a new one."""
    mint: Callable[[], UUID] = uuid4


@dataclass(frozen=True, slots=True)
class OrdersPlaced:
    """What became of the order groups of a message: ids of orders, each in the strongest list that holds."""

    patient: int | None
    created: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    unchanged: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()
    studies: tuple[str, ...] = ()
    """Study Instance UIDs of the orders created."""
    warnings: tuple[str, ...] = ()

    @property
    def orders(self) -> tuple[int, ...]:
        """List all orders the message was about."""
        return (*self.created, *self.changed, *self.unchanged, *self.ignored)


@dataclass(frozen=True, slots=True)
class PatientUpdated:
    """What became of a patient update."""

    patient: int
    created: bool = False
    changed: tuple[str, ...] = ()
    """Keywords."""
    steps: tuple[int, ...] = ()
    """Worklist entries written again."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PatientsMerged:
    """What became of a merge."""

    survivor: int
    absorbed: int
    moved_orders: tuple[int, ...] = ()
    already_merged: bool = False
    warnings: tuple[str, ...] = ()
