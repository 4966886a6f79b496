"""What a worker process works with: the wired broker, opened once, and what one task does with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import structlog

from broker.domain.delivery import DeliveryState
from broker.failpoints import failpoint
from broker.workflow.deliveries import deliver
from broker.workflow.sending import Attempt, SendingLimits, Wired, Worker
from workers.leases import LeaseRenewer
from workers.owner import worker_name

ROUTE_BATCH = 200

log = structlog.get_logger()


class WorkingBroker(Wired, Protocol):
    """What a worker needs of the wired broker."""

    def route(self, instance_ids: Sequence[int]) -> object:
        """Decide where images go; those already decided are left."""
        ...


OpenBroker = Callable[[], AbstractContextManager[WorkingBroker]]


class Desk:
    """Opens the broker in the process that works, also after a fork, and does one task at a time per thread."""

    def __init__(
        self,
        open_broker: OpenBroker,
        *,
        limits: SendingLimits | None = None,
        leases: LeaseRenewer | None = None,
    ) -> None:
        """Prepare; nothing is opened before the first task."""
        self._open_broker = open_broker
        self._limits = limits or SendingLimits()
        self._given_leases = leases
        self._stopping = threading.Event()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._routing = threading.Lock()
        self._route_asked = threading.Event()
        self._stack = ExitStack()
        self._broker: WorkingBroker | None = None
        self._leases = leases or LeaseRenewer()

    @property
    def broker(self) -> WorkingBroker:
        """Answer the broker of this process."""
        if self._pid != os.getpid():
            self._forget()  # what a fork inherits is its parent's
        with self._lock:
            if self._broker is None:
                self._broker = self._stack.enter_context(self._open_broker())
            return self._broker

    def open(self) -> None:
        """Open the broker now."""
        _ = self.broker.clock

    def stop(self) -> None:
        """Let running slices end with their current item."""
        self._stopping.set()

    def close(self) -> None:
        """Give back what the broker holds."""
        with self._lock:
            self._broker = None
            self._stack.close()

    def deliver(self, delivery_id: int) -> list[Attempt]:
        """Send a delivery, and what else is due there."""
        attempts = deliver(delivery_id, self.broker, worker=self._worker())
        for attempt in attempts:
            say(attempt)
        failpoint("deliver.before_done")
        return attempts

    def route(self, instance_id: int) -> None:  # noqa: ARG002 - the id is a hint; the rows say what there is to do
        """Decide about every image nobody has decided about, the one named among them.

        One thread at a time: deciding is all computing, and two would take the same images. Whoever comes
        meanwhile leaves word, and the one who decides looks again: no image waits for the next sweep.
        """
        self._route_asked.set()
        while self._route_asked.is_set() and self._routing.acquire(blocking=False):
            try:
                while self._route_asked.is_set() and not self._stopping.is_set():
                    self._route_asked.clear()
                    self.route_waiting()
            finally:
                self._routing.release()
            if self._stopping.is_set():
                return

    def route_waiting(self, *, batch: int = ROUTE_BATCH) -> None:
        """Decide about images until none waits."""
        broker, before = self.broker, frozenset[int]()
        while not self._stopping.is_set():
            with broker.units_of_work() as uow:
                waiting = uow.instances.undecided(batch)
            # What stayed undecided in spite of a try is the sweep's: going round would not end.
            fresh = [instance_id for instance_id in waiting if instance_id not in before]
            if not fresh:
                return
            broker.route(fresh)
            before = frozenset(waiting)

    def _worker(self) -> Worker:
        return Worker(worker_name(), self._limits, self._leases, self._stopping.is_set, self._leases.give_up)

    def _forget(self) -> None:
        """Start anew in a fork."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._routing = threading.Lock()
        self._route_asked = threading.Event()
        self._stack = ExitStack()
        self._broker = None
        self._leases = self._given_leases or LeaseRenewer()


def say(attempt: Attempt) -> None:
    """Log what a try came to, without the peer's words: they may name a patient, and the row has them."""
    settlement = attempt.settlement
    fields = {
        "delivery": attempt.delivery,
        "destination": attempt.destination,
        "attempt": attempt.attempt,
        "items": attempt.items_settled,
        "duration_s": round(attempt.duration_s, 3),
    }
    if settlement is None:
        log.warning("delivery left to another worker", **fields)
        return
    failure_class = settlement.failure_class.value if settlement.failure_class else None
    if attempt.defect:
        log.error("delivery met a defect", **fields, defect=list(attempt.defect))
    elif settlement.state is DeliveryState.DEAD:
        log.error("delivery died", **fields, failure_class=failure_class)
    elif failure_class is not None:
        log.warning("delivery to be retried", **fields, failure_class=failure_class)
    else:
        log.info("delivery sent", **fields, state=settlement.state.value)
