"""Tell a lease that ran out from a wall clock that was set.

Leases are instants, and somebody may set the clock by an hour. The sweep sees that: between two sweeps the wall
clock then went another way than monotonic time. Workers that live renew their leases within seconds; so after a
jump nothing is taken back for a while, and what was not renewed by then has no worker, whatever its lease says.

Waits are instants too: after the clock was set back by an hour, what was to be tried again in a minute would be
tried in an hour and a minute. Whoever sweeps asks `doubts_waits` and mends them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from broker.workflow.ports import Clock

JUMP = timedelta(seconds=5)
"""Less is slewing, or a busy machine."""
BLINK = timedelta(seconds=10)
"""Who looked away for longer cannot know whether the clock was set forward and back again."""


class LeaseWatch:
    """Remembers the clocks from sweep to sweep; one per sweeping process."""

    def __init__(self, *, lease: timedelta = timedelta(seconds=90), grace_s: float = 30.0) -> None:
        """Take the longest lease, and how long a living worker may take to renew one."""
        self._lease = lease
        self._grace_s = grace_s
        self._last: tuple[datetime, float] | None = None
        self._grace_until_s: float | None = None
        self.doubts_waits = True
        """Rows may be due later than anybody meant: the clock was set back, or may have been while nobody looked."""

    def look(self, clock: Clock) -> bool:
        """Look at the clocks; answer whether leases may be judged now."""
        now, now_s = clock.now(), clock.monotonic()
        if self._last is not None:
            went = now - self._last[0]
            passed = timedelta(seconds=now_s - self._last[1])
            if abs(went - passed) > JUMP:
                self._grace_until_s = now_s + self._grace_s
            if went - passed < -JUMP or passed > BLINK:
                self.doubts_waits = True
        self._last = (now, now_s)
        if self._grace_until_s is not None and now_s >= self._grace_until_s:
            self._grace_until_s = None
        return self._grace_until_s is None

    def is_stranded(self, lease_until: datetime, *, now: datetime) -> bool:
        """Answer whether a lease ends later than any that was renewed since the clock was set back."""
        return lease_until > now + self._lease + JUMP
