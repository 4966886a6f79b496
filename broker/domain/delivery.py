"""A delivery: one obligation to send, as a state table; outcomes, and the one retry policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from hashlib import blake2b

from broker.errors import IllegalTransition


class DeliveryState(Enum):
    """Where a delivery stands."""

    COLLECTING = "COLLECTING"
    """Waits for more images of its unit; `due_at` moves with each, up to a cap."""
    PENDING = "PENDING"
    """To be sent when `due_at` comes."""
    IN_PROGRESS = "IN_PROGRESS"
    """A worker holds it under a lease."""
    DELIVERED = "DELIVERED"
    """The peer has confirmed every item."""
    DEAD = "DEAD"
    """Needs a person; the reason says why."""
    CANCELLED = "CANCELLED"
    """A person decided not to send it."""


class Priority(IntEnum):
    """How urgent a delivery is; within a destination the smallest number goes first, then what is due longest."""

    URGENT = 1
    HIGH = 2
    ROUTINE = 4
    LOW = 6


class DeliveryEvent(Enum):
    """What can happen to a delivery."""

    IMAGE_ARRIVED = "image arrived"
    COLLECTED = "collected"
    CLAIMED = "claimed"
    DELIVERED = "delivered"
    SLICE_DONE = "slice done, more to send"
    RETRY_LATER = "retry later"
    MISCONFIGURED = "misconfigured"
    REJECTED = "rejected"
    LIFE_OVER = "life over"
    UNKNOWN = "unknown result"
    LEASE_EXPIRED = "lease expired"
    LEASE_EXPIRED_UNSAFE = "lease expired, not safe to repeat"
    RETRIED = "retried by a person"
    CANCELLED = "cancelled by a person"
    RELEASED = "sent now by a person"
    REOPENED = "reopened by a resend of the same image"


_S, _E = DeliveryState, DeliveryEvent
DELIVERY_TRANSITIONS: dict[DeliveryState, dict[DeliveryEvent, DeliveryState]] = {
    _S.COLLECTING: {
        _E.IMAGE_ARRIVED: _S.COLLECTING,
        _E.COLLECTED: _S.PENDING,
        _E.RELEASED: _S.PENDING,
        _E.CANCELLED: _S.CANCELLED,
    },
    _S.PENDING: {
        _E.CLAIMED: _S.IN_PROGRESS,
        _E.RETRIED: _S.PENDING,
        _E.LIFE_OVER: _S.DEAD,
        _E.CANCELLED: _S.CANCELLED,
    },
    _S.IN_PROGRESS: {
        _E.DELIVERED: _S.DELIVERED,
        _E.SLICE_DONE: _S.PENDING,
        _E.RETRY_LATER: _S.PENDING,
        _E.MISCONFIGURED: _S.PENDING,
        _E.REJECTED: _S.DEAD,
        _E.LIFE_OVER: _S.DEAD,
        _E.UNKNOWN: _S.DEAD,
        _E.LEASE_EXPIRED: _S.PENDING,
        _E.LEASE_EXPIRED_UNSAFE: _S.DEAD,
    },
    _S.DELIVERED: {_E.REOPENED: _S.PENDING},
    _S.DEAD: {_E.RETRIED: _S.PENDING, _E.CANCELLED: _S.CANCELLED, _E.REOPENED: _S.PENDING},
    _S.CANCELLED: {_E.RETRIED: _S.PENDING, _E.REOPENED: _S.PENDING},
}


def advance_delivery(state: DeliveryState, event: DeliveryEvent) -> DeliveryState:
    """Answer the state after `event`. Raises IllegalTransition, and nothing has changed."""
    target = DELIVERY_TRANSITIONS[state].get(event)
    if target is None:
        raise IllegalTransition(f"A delivery that is {state.value} cannot be {event.value}.")
    return target


@dataclass(frozen=True, slots=True)
class Delivered:
    """The peer confirmed what was sent."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class MoreToSend:
    """The slice of time is over; everything settled so far is kept, the rest follows at once."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Time may heal it."""

    reason: str
    max_tries: int | None = None
    """After so many tries of this kind it is a Rejected (or, if `then_config`, a Misconfigured)."""
    then_config: bool = False
    first_delay_s: float | None = None
    ours: bool = False
    """The trouble is here: it does not count against the destination."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The peer will never take it as it is."""

    reason: str


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """Somebody must change a setting, here or there; the destination is paused, nothing is discarded."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened and may not; repeating is safe only for a retry-safe destination."""

    reason: str


Outcome = Delivered | MoreToSend | RetryLater | Rejected | Misconfigured | Unknown


class ItemState(Enum):
    """Where one item of a delivery stands."""

    WAITING = "WAITING"
    DELIVERED = "DELIVERED"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again: doubling from `first` to `cap`, for as long as `life` lasts (None = for ever)."""

    first: timedelta = timedelta(seconds=30)
    cap: timedelta = timedelta(minutes=30)
    life: timedelta | None = timedelta(hours=24)

    def delay(self, attempt: int, *, delivery_id: int, first_s: float | None = None) -> timedelta:
        """Answer the wait after failed attempt number `attempt` (from 1), with ±20 % jitter.

        The jitter is a hash of delivery and attempt: spread over the fleet, the same when computed again.
        """
        first = timedelta(seconds=first_s) if first_s is not None else self.first
        doublings = min(max(attempt, 1) - 1, 20)
        base = min(self.cap, first * (1 << doublings))
        digest = blake2b(f"{delivery_id}:{attempt}".encode(), digest_size=4).digest()
        return base * (0.8 + 0.4 * int.from_bytes(digest, "big") / 0xFFFFFFFF)

    def is_over(self, *, created_at: datetime, now: datetime) -> bool:
        """Answer whether the delivery has used up its life."""
        return self.life is not None and now - created_at >= self.life
