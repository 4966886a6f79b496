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
    ) -> None:
        """Prepare; the thread starts with the first lease."""
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._release_s = release_s
        self._max_hold_s = max_hold_s
        self._changed = threading.Condition()
        self._leases: set[_Lease] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def __call__(self, renew: Callable[[], bool]) -> Iterator[None]:
        """Keep a lease while the block runs."""
        now_s = time.monotonic()
        lease = _Lease(renew, now_s + self._interval_s, now_s + self._max_hold_s, self._retry_s)
        self._add(lease)
        try:
            yield
        finally:
            with self._changed:
                self._leases.discard(lease)

    def give_up(self, release: Callable[[], None]) -> None:
        """Call `release` soon, and again until the database has taken it: nobody renews that lease any more."""

        def released() -> bool:
            release()
            return False

        now_s = time.monotonic()
        self._add(_Lease(released, now_s, now_s + self._max_hold_s, self._release_s))

    def _add(self, lease: _Lease) -> None:
        with self._changed:
            self._leases.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            lease = self._next_due()
            try:
                is_ours = lease.renew()
                pause_s = self._interval_s
            except Exception as error:  # the database may be back before the lease is over
                log.warning("lease not renewed", error=type(error).__name__)
                is_ours, pause_s = True, lease.retry_s
            with self._changed:
                lease.next_s = time.monotonic() + pause_s
                if not is_ours or lease.next_s > lease.until_s:
                    self._leases.discard(lease)

    def _next_due(self) -> _Lease:
        with self._changed:
            while True:
                lease = min(self._leases, key=lambda one: one.next_s, default=None)
                if lease is None:
                    self._changed.wait()
                    continue
                wait_s = lease.next_s - time.monotonic()
                if wait_s <= 0:
                    return lease
                self._changed.wait(wait_s)
