"""Renew leases while a destination is waited for: one thread for all deliveries of a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Lease:
    renew: Callable[[], bool]
    next_s: float
    until_s: float
    retry_s: float


def _in_a_thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="leases", daemon=True).start()


class LeaseRenewer:
    """Calls each `renew` from time to time while its block runs.

    A try that outlives `max_hold_s` is given up: its lease runs out, and the sweep hands the row to another.
    """

    def __init__(
        self,
        *,
        interval_s: float = 20.0,
        retry_s: float = 5.0,
        release_s: float = 1.0,
        max_hold_s: float = 1800.0,
        monotonic: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] = _in_a_thread,
    ) -> None:
        """Prepare; the thread is started with the first lease."""
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._release_s = release_s
        self._max_hold_s = max_hold_s
        self._monotonic = monotonic
        self._start = start
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._leases: set[_Lease] = set()
        self._is_started = False

    @contextmanager
    def __call__(self, renew: Callable[[], bool]) -> Iterator[None]:
        """Keep a lease while the block runs."""
        now_s = self._monotonic()
        lease = _Lease(renew, now_s + self._interval_s, now_s + self._max_hold_s, self._retry_s)
        self._add(lease)
        try:
            yield
        finally:
            with self._lock:
                self._leases.discard(lease)

    def give_up(self, release: Callable[[], None]) -> None:
        """Call `release` soon, and again until the database has taken it: nobody renews that lease any more."""

        def released() -> bool:
            release()
            return False

        now_s = self._monotonic()
        self._add(_Lease(released, now_s, now_s + self._max_hold_s, self._release_s))

    def turn(self) -> float | None:
        """Renew what is due; answer in how many seconds the next is, None while there is none."""
        while True:
            with self._lock:
                lease = min(self._leases, key=lambda one: one.next_s, default=None)
            if lease is None:
                return None
            wait_s = lease.next_s - self._monotonic()
            if wait_s > 0:
                return wait_s
            self._renew(lease)

    def _renew(self, lease: _Lease) -> None:
        try:
            is_ours = lease.renew()
            pause_s = self._interval_s
        except Exception as error:  # the database may be back before the lease is over
            log.warning("lease not renewed", error=type(error).__name__)
            is_ours, pause_s = True, lease.retry_s
        with self._lock:
            lease.next_s = self._monotonic() + pause_s
            if not is_ours or lease.next_s > lease.until_s:
                self._leases.discard(lease)

    def _add(self, lease: _Lease) -> None:
        with self._lock:
            self._leases.add(lease)
            is_first, self._is_started = not self._is_started, True
        self._woken.set()
        if is_first:
            self._start(self._run)

    def _run(self) -> None:
        while True:
            self._woken.clear()
            self._woken.wait(self.turn())
