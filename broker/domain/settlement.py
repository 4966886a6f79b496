"""What becomes of a delivery after a try: the outcome and the facts decide, in one place, without a clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from broker.domain.delivery import (
    Delivered,
    DeliveryEvent,
    DeliveryState,
    Misconfigured,
    MoreToSend,
    Outcome,
    Rejected,
    RetryLater,
    RetryPolicy,
    Unknown,
    advance_delivery,
)

MIN_TRIES = 4
"""A delivery dies of age only after so many tries: one that a person retried late gets a fair chance."""


class FailureClass(Enum):
    """Says whose fault it was, and whether time heals it."""

    TRANSIENT = "transient"
    """Time heals it."""
    LIMITED = "limited"
    """Time may heal it; after a few tries it is taken for permanent."""
    CONFIG = "config"
    """A setting, here or there."""
    PERMANENT = "permanent"
    """The peer will never take it as it is."""
    UNKNOWN = "unknown"
    """It may have happened."""
    INTERNAL = "internal"
    """A defect of ours."""


@dataclass(frozen=True, slots=True)
class Try:
    """What is known when a try is over."""

    delivery_id: int
    created_at: datetime
    now: datetime
    failures: int = 0
    """Consecutive failed tries of `failure_class` before this one."""
    failure_class: str | None = None
    items: int = 0
    """0: the delivery carries bytes, not instances."""
    waiting: int = 0
    rejected: int = 0
    progressed: bool = False
    """Some item was settled in this try."""
    exhausted: bool = False
    """The destination was given every item there was, or all its slice of time allowed."""
    interrupted: bool = False
    """We cut the items short because this process stops."""
    retry_safe: bool = True
    safekeeping: bool = False
    internal: bool = False
    """The outcome stands for an exception, a defect of ours."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """Where a delivery goes after a try."""

    event: DeliveryEvent
    state: DeliveryState
    reason: str | None
    failure_class: FailureClass | None = None
    failures: int = 0
    wait: timedelta = timedelta(0)

    @property
    def failed_to_reach(self) -> bool:
        """Answer whether the try counts against the destination."""
        return self.failure_class in {FailureClass.TRANSIENT, FailureClass.LIMITED}


def settle(outcome: Outcome, this: Try, policy: RetryPolicy) -> Settlement:
    """Answer what becomes of a delivery after a try."""
    if this.items and not this.waiting and not this.rejected and not isinstance(outcome, Rejected):
        # Every item has been confirmed: a connection lost afterwards takes nothing away.
        return _leave(DeliveryEvent.DELIVERED, outcome.reason or None)
    match outcome:
        case Delivered() | MoreToSend():
            return _after_success(outcome, this, policy)
        case Rejected(reason):
            if this.waiting and this.exhausted and this.progressed:
                # Others have joined, or the slice was over: the rest still gets its chance.
                return _more(reason)
            return _die(DeliveryEvent.REJECTED, reason, FailureClass.PERMANENT)
        case Misconfigured(reason):
            return _misconfigured(reason, this)
        case RetryLater():
            return _after_failure(outcome, this, policy)
        case Unknown(reason):
            if this.retry_safe:
                return _after_failure(RetryLater(reason), this, policy)
            return _die(
                DeliveryEvent.UNKNOWN,
                f"May have happened, please check there: {reason}",
                FailureClass.UNKNOWN,
            )


def after_expired_lease(*, retry_safe: bool) -> Settlement:
    """Answer what becomes of a delivery whose worker is gone."""
    if retry_safe:
        return _leave(DeliveryEvent.LEASE_EXPIRED, "The worker is gone; what was confirmed is kept.")
    return _die(
        DeliveryEvent.LEASE_EXPIRED_UNSAFE,
        "May have happened, please check there: the worker is gone.",
        FailureClass.UNKNOWN,
    )


def _after_success(outcome: Delivered | MoreToSend, this: Try, policy: RetryPolicy) -> Settlement:
    if this.waiting or (isinstance(outcome, MoreToSend) and not this.items):
        if this.progressed or this.interrupted or not this.items:
            return _more(outcome.reason or None)
        # Going on at once would turn for ever.
        return _after_failure(RetryLater("The destination confirmed nothing."), this, policy)
    if this.rejected:
        return _die(
            DeliveryEvent.REJECTED, f"{this.rejected} of {this.items} refused", FailureClass.PERMANENT
        )
    return _leave(DeliveryEvent.DELIVERED, outcome.reason or None)


def _after_failure(outcome: RetryLater, this: Try, policy: RetryPolicy) -> Settlement:
    if this.items and not this.waiting:
        return _die(DeliveryEvent.REJECTED, outcome.reason, FailureClass.PERMANENT)
    if this.internal:
        kind = FailureClass.INTERNAL
    elif outcome.max_tries is not None:
        kind = FailureClass.LIMITED
    else:
        kind = FailureClass.TRANSIENT
    # Tries are counted per kind: fifty refused connections do not use up the three tries of a refused object.
    is_same = this.failure_class == kind.value and not this.progressed
    failures = this.failures + 1 if is_same else 1
    if outcome.max_tries is not None and failures >= outcome.max_tries:
        if outcome.then_config:
            return _misconfigured(outcome.reason, this)
        return _die(DeliveryEvent.REJECTED, outcome.reason, FailureClass.PERMANENT, failures=failures)
    if (
        not this.safekeeping
        and failures >= MIN_TRIES
        and policy.is_over(created_at=this.created_at, now=this.now)
    ):
        return _die(DeliveryEvent.LIFE_OVER, outcome.reason, kind, failures=failures)
    return Settlement(
        DeliveryEvent.RETRY_LATER,
        advance_delivery(DeliveryState.IN_PROGRESS, DeliveryEvent.RETRY_LATER),
        outcome.reason,
        kind,
        failures,
        policy.delay(failures, delivery_id=this.delivery_id, first_s=outcome.first_delay_s),
    )


def _misconfigured(reason: str, this: Try) -> Settlement:
    # No wait of its own: the destination is paused, and everything to it goes on when it is resumed.
    return Settlement(
        DeliveryEvent.MISCONFIGURED,
        advance_delivery(DeliveryState.IN_PROGRESS, DeliveryEvent.MISCONFIGURED),
        reason,
        FailureClass.CONFIG,
        this.failures,
    )


def _more(reason: str | None) -> Settlement:
    return _leave(DeliveryEvent.SLICE_DONE, reason)


def _leave(event: DeliveryEvent, reason: str | None) -> Settlement:
    return Settlement(event, advance_delivery(DeliveryState.IN_PROGRESS, event), reason)


def _die(event: DeliveryEvent, reason: str, kind: FailureClass, *, failures: int = 0) -> Settlement:
    return Settlement(event, advance_delivery(DeliveryState.IN_PROGRESS, event), reason, kind, failures)
