"""Send what is owed: claim a delivery, give it to its destination, settle what came of it.

The row is the truth. A wake-up that is late, doubled or wrong finds nothing to claim; a worker that lost its
lease finds its fence broken and changes nothing.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePath

from broker.domain.delivery import (
    Delivered,
    DeliveryEvent,
    DeliveryState,
    MoreToSend,
    Outcome,
    Rejected,
    RetryLater,
    Unknown,
)
from broker.domain.events import EventName
from broker.domain.settlement import Settlement, Try, settle
from broker.errors import LeaseLost, OutOfResources
from broker.failpoints import failpoint
from broker.workflow.claims import Claimed, claim, claim_next, give_back
from broker.workflow.deliveries_port import Delivery
from broker.workflow.destination_health import may_send, note_contact, note_failure, note_misconfigured
from broker.workflow.destinations_port import ItemResult, Parcel, ParcelItem
from broker.workflow.sending import Attempt, DestinationEntry, Detail, Wired, Worker, record_move
from broker.workflow.unit_of_work import UnitOfWork
from broker.workflow.wake_ups import Task, WakeUp

MAX_REASON_CHARS = 500


def deliver(delivery_id: int, wired: Wired, *, worker: Worker) -> list[Attempt]:
    """Send a delivery if it is due, then what else is due there for a few seconds.

    Going on keeps connections in use and makes up for wake-ups that met a destination at its cap.
    """
    clock, attempts = wired.clock, list[Attempt]()
    until_s = clock.monotonic() + worker.limits.drain_s
    claimed = claim(delivery_id, wired, worker)
    while claimed is not None:
        attempt, claimed = _send(claimed, wired, worker, until_s=until_s)
        attempts.append(attempt)
    return attempts


class _Items:
    """Reads waiting items page by page; ends when none waits or the slice of time is over."""

    def __init__(self, delivery: int, wired: Wired, worker: Worker) -> None:
        self._delivery = delivery
        self._wired = wired
        self._worker = worker
        self._until_s = wired.clock.monotonic() + worker.limits.slice_s
        self.exhausted = False
        self.interrupted = False

    def read(self) -> Iterator[ParcelItem]:
        """Answer the items in their order."""
        after, offered, is_last = 0, 0, False
        while not is_last:
            page = self._page(after)
            # What joins after a short page is found when the delivery is settled.
            is_last = len(page) < self._worker.limits.page_items
            for item in page:
                self.interrupted = self._worker.is_stopping()
                # One item always goes out: a slice that ends before its first item would never get further.
                is_over = offered > 0 and self._wired.clock.monotonic() >= self._until_s
                if self.interrupted or is_over:
                    self.exhausted = True
                    return
                after, offered = item.id, offered + 1
                yield replace(item, path=self._wired.files.absolute(str(item.path)))
        self.exhausted = True

    def _page(self, after: int) -> list[ParcelItem]:
        with self._wired.units_of_work() as uow:
            return uow.deliveries.waiting_items(
                self._delivery, after=after, limit=self._worker.limits.page_items
            )


class _Grip:
    """Holds the lease of one try."""

    def __init__(self, claimed: Claimed, wired: Wired, worker: Worker) -> None:
        delivery = claimed.delivery
        self.delivery, self.attempt = delivery.id, delivery.attempt
        self.wired, self.worker = wired, worker
        self.settled_items = 0
        self.claimed = [delivery]
        """Ours until told otherwise: also what was claimed by a commit of which nobody knows whether it happened."""
        self._held: list[ItemResult] = []
        self._began_s = wired.clock.monotonic()
        self._answers = Counter[str]()
        # A single image and the end of its delivery are one commit. It costs a repetition where the process dies
        # between the two, as it may between the answer and the commit anyway: not where that needs a person.
        self._may_hold = delivery.items == 1 and claimed.entry.plugin.retry_safe

    def renew(self) -> bool:
        """Renew the lease; False when it is lost."""
        with self.wired.units_of_work() as uow:
            is_ours = self._renew_in(uow)
            uow.commit()
            return is_ours

    def settled(self, results: Sequence[ItemResult]) -> None:
        """Make progress durable. Raises LeaseLost."""
        self.settled_items += len(results)
        self._answers.update(result.wire_status for result in results if result.wire_status)
        if self._may_hold and results:
            self._held.extend(results)
            return
        with self.wired.units_of_work() as uow:
            self._settle_in(uow, results)
            failpoint("settle.items_before_commit")
            uow.commit()
        failpoint("settle.items_after_commit")

    def wire_facts(self) -> dict[str, Detail]:
        """Answer how long this try has taken, and what the peer answered how often."""
        facts: dict[str, Detail] = {
            "duration_s": round(self.wired.clock.monotonic() - self._began_s, 3),
            "sent": self.settled_items,
        }
        if self._answers:
            facts["wire"] = [f"{status} ×{count}" for status, count in self._answers.most_common(8)]
        return facts

    def hold_in(self, uow: UnitOfWork) -> None:
        """Lock the row under the fence, and write what was held back. Raises LeaseLost."""
        self._settle_in(uow, self._held)

    def _settle_in(self, uow: UnitOfWork, results: Sequence[ItemResult]) -> None:
        if not self._renew_in(uow):
            raise LeaseLost
        now = self.wired.clock.now()
        if results and not uow.deliveries.settle_items(self.delivery, self.attempt, results, now=now):
            raise LeaseLost

    def _renew_in(self, uow: UnitOfWork) -> bool:
        return uow.deliveries.renew(
            self.delivery, self.attempt, now=self.wired.clock.now(), lease=self.worker.limits.lease
        )


def _send(
    claimed: Claimed, wired: Wired, worker: Worker, *, until_s: float
) -> tuple[Attempt, Claimed | None]:
    delivery, entry = claimed.delivery, claimed.entry
    grip = _Grip(claimed, wired, worker)
    items = _Items(delivery.id, wired, worker)
    began_s = wired.clock.monotonic()
    defect: tuple[str, ...] = ()
    settlement: Settlement | None = None
    following: Claimed | None = None
    try:
        outcome: Outcome
        if delivery.items and delivery.items_delivered + delivery.items_rejected >= delivery.items:
            outcome = Delivered()  # the last worker was lost between the last item and the end
        else:
            try:
                with worker.keep_alive(grip.renew):
                    outcome = entry.plugin.send(_parcel(claimed, items), grip.settled)
            except (LeaseLost, OutOfResources):
                raise
            except Exception as error:
                # A defect of ours or of a plug-in must not take the worker along, nor be forgotten.
                defect = places_of(error)
                outcome = _outcome_of(error, entry, worker)
        settlement, following = _settle(claimed, outcome, items, grip, until_s=until_s, defect=defect)
    except LeaseLost:
        settlement, following = None, None
    except OutOfResources:
        # No database to settle with, or its disk is full. The commit may have happened all the same, then there is nothing to give back.
        for held in grip.claimed:
            worker.give_up(partial(give_back, held, wired))
        settlement, following = None, None
    duration_s = wired.clock.monotonic() - began_s
    attempt = Attempt(
        delivery.id,
        entry.name,
        entry.kind,
        delivery.attempt,
        settlement,
        duration_s,
        grip.settled_items,
        defect,
    )
    return attempt, following


def _parcel(claimed: Claimed, items: _Items) -> Parcel:
    delivery = claimed.delivery
    return Parcel(
        delivery=delivery.id,
        attempt=delivery.attempt,
        items=items.read() if delivery.items else iter(()),
        contexts=claimed.contexts,
        payload=delivery.payload,
        study_instance_uid=delivery.study_instance_uid,
        unit=delivery.unit,
        first_attempt_reason=delivery.reason,
    )


def _settle(
    claimed: Claimed,
    outcome: Outcome,
    items: _Items,
    grip: _Grip,
    *,
    until_s: float,
    defect: tuple[str, ...],
) -> tuple[Settlement, Claimed | None]:
    """Leave IN_PROGRESS under the fence, and claim what follows in the same transaction. Raises LeaseLost."""
    delivery, entry, wired, worker = claimed.delivery, claimed.entry, grip.wired, grip.worker
    breaker = worker.limits.breaker
    with wired.units_of_work() as uow:
        now = wired.clock.now()
        # Locks are taken in one order everywhere: the destination, then the row.
        if grip.settled_items or isinstance(outcome, (Delivered, MoreToSend, Rejected)):
            note_contact(uow, entry.name, now=now, policy=breaker)
        elif _is_the_destinations(outcome) and not defect:
            note_failure(uow, entry.name, outcome.reason, now=now, policy=breaker)
        # This UPDATE holds the row: no image joins between counting what waits and leaving.
        grip.hold_in(uow)
        row = uow.deliveries.get(delivery.id)
        settlement = settle(
            outcome,
            Try(
                delivery_id=delivery.id,
                created_at=delivery.created_at,
                now=now,
                failures=delivery.failures,
                failure_class=delivery.failure_class,
                items=row.items,
                waiting=uow.deliveries.count_waiting(delivery.id) if row.items else 0,
                rejected=row.items_rejected,
                progressed=grip.settled_items > 0,
                exhausted=items.exhausted,
                interrupted=items.interrupted,
                retry_safe=entry.plugin.retry_safe,
                safekeeping=entry.safekeeping,
                internal=bool(defect),
            ),
            entry.retry,
        )
        _leave(uow, row, settlement, grip, defect=defect)
        if settlement.event is DeliveryEvent.MISCONFIGURED:
            note_misconfigured(uow, entry.name, settlement.reason, now=now, policy=breaker)
        goes_on = wired.clock.monotonic() < until_s and not worker.is_stopping()
        following = claim_next(uow, entry, wired, worker) if goes_on else None
        if following is None:
            _wake_next(uow, entry, wired)
        else:
            grip.claimed.append(following.delivery)
        failpoint("settle.before_commit")
        uow.commit()
    failpoint("settle.after_commit")
    return settlement, following


def _is_the_destinations(outcome: Outcome) -> bool:
    """Answer whether a failed try counts against the destination."""
    return isinstance(outcome, Unknown) or (isinstance(outcome, RetryLater) and not outcome.ours)


_EVENT_NAMES = {
    DeliveryEvent.DELIVERED: EventName.DELIVERY_DELIVERED,
    DeliveryEvent.SLICE_DONE: EventName.DELIVERY_PROGRESSED,
    DeliveryEvent.RETRY_LATER: EventName.DELIVERY_RETRY,
    DeliveryEvent.MISCONFIGURED: EventName.DELIVERY_RETRY,
    DeliveryEvent.REJECTED: EventName.DELIVERY_DIED,
    DeliveryEvent.LIFE_OVER: EventName.DELIVERY_DIED,
    DeliveryEvent.UNKNOWN: EventName.DELIVERY_DIED,
}


def _leave(
    uow: UnitOfWork, row: Delivery, settlement: Settlement, grip: _Grip, *, defect: tuple[str, ...]
) -> None:
    now = grip.wired.clock.now()
    reason = settlement.reason[:MAX_REASON_CHARS] if settlement.reason else None
    failure_class = settlement.failure_class
    due_at = now + settlement.wait
    if not uow.deliveries.settle(
        row.id,
        grip.attempt,
        state=settlement.state,
        reason=reason,
        failure_class=failure_class.value if failure_class else None,
        failures=settlement.failures,
        due_at=due_at,
        now=now,
    ):
        raise LeaseLost
    details: dict[str, Detail] = {
        "attempt": grip.attempt,
        "event": settlement.event.value,
        "state": settlement.state.value,
        "reason": reason,
        "failure_class": failure_class.value if failure_class else None,
    }
    details |= grip.wire_facts()
    if row.items:
        details |= {"items": row.items, "delivered": row.items_delivered, "rejected": row.items_rejected}
    if settlement.state is DeliveryState.PENDING:
        details["due_at"] = due_at.isoformat()
    if defect:
        details["defect"] = list(defect)
    record_move(uow, row, _EVENT_NAMES[settlement.event], details=details)


def _wake_next(uow: UnitOfWork, entry: DestinationEntry, wired: Wired) -> None:
    """Hand the place we leave to the next delivery there."""
    if may_send(uow.destinations.get(entry.name)):
        for delivery_id in uow.deliveries.next_due(entry.name, now=wired.clock.now(), limit=1):
            uow.wake(WakeUp(Task.DELIVER, delivery_id, entry.kind, entry.name))


def _outcome_of(error: Exception, entry: DestinationEntry, worker: Worker) -> RetryLater | Unknown:
    reason = f"Internal error: {type(error).__name__}"
    if entry.plugin.retry_safe:
        return RetryLater(reason, first_delay_s=worker.limits.first_internal_delay_s)
    return Unknown(reason)


def places_of(error: BaseException) -> tuple[str, ...]:
    """Answer where an exception came from: its type and places, never its text, which may name a patient."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    places = (f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return (type(error).__name__, *places)
