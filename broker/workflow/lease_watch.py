"""Tell a lease that nobody renews from one that a wall clock makes look so.

Leases are instants, and somebody may set the clock by an hour, or has just before a sweeper began. So a sweep asks
no clock whether a lease is over: it remembers since when, by its own monotonic time, it has seen the lease as it is.
Workers that live renew within seconds; what stood unchanged for the length of a lease has no worker, wherever the
wall clock is. A sweeper that has just begun waits that long, too: what lay there may have been renewed a moment ago.

Waits are instants too: after the clock was set back by an hour, what was to be tried again in a minute would be
tried in an hour and a minute. Whoever sweeps asks `doubts_waits` and mends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from broker.workflow.clock import Clock
from broker.workflow.deliveries_port import Delivery

JUMP = timedelta(seconds=5)
"""Less is slewing, or a busy machine."""
BLINK = timedelta(seconds=10)
"""Who looked away for longer cannot know whether the clock was set forward and back again."""


class LeaseWatch:
    """Remembers clocks and leases from sweep to sweep; one per sweeping process."""

    def __init__(self, *, lease: timedelta = timedelta(seconds=90)) -> None:
        """Take the length of a lease."""
        self._lease_s = lease.total_seconds()
        self._seen: dict[tuple[int, int], tuple[datetime, float]] = {}
        self._last: tuple[datetime, float] | None = None
        self.doubts_waits = True
        """Rows may be due later than anybody meant: the clock was set back, or may have been while nobody looked."""

    def look(self, clock: Clock) -> None:
        """Look at the clocks."""
        now, now_s = clock.now(), clock.monotonic()
        if self._last is not None:
            went = now - self._last[0]
            passed = timedelta(seconds=now_s - self._last[1])
            if went - passed < -JUMP or passed > BLINK:
                self.doubts_waits = True
        self._last = (now, now_s)

    def abandoned(self, held: Sequence[Delivery], *, now_s: float) -> list[Delivery]:
        """Answer which of all that is held nobody has renewed for the length of a lease, as far as was seen."""
        before, self._seen = self._seen, {}
        over = []
        for delivery in held:
            if delivery.lease_until is None:
                continue
            key = delivery.id, delivery.attempt
            seen = before.get(key)
            if seen is None or seen[0] != delivery.lease_until:
                seen = delivery.lease_until, now_s
            self._seen[key] = seen
            if now_s - seen[1] >= self._lease_s:
                over.append(delivery)
        return over
