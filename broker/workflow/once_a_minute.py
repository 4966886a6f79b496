"""Tells the same thing once a minute: a flood of faults or of knocking peers must not fill the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Final

REPEAT_AFTER_S: Final = 60.0
_MAX_REMEMBERED: Final = 1_000
"""Told apart. A peer chooses its AE titles and a host has many addresses, so more than these are forgotten."""


class OnceAMinute:
    """Remembers what was told and counts what was not; threads may share one."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Remember nothing yet."""
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._told: dict[Hashable, tuple[float, int]] = {}

    def __len__(self) -> int:
        """Answer how many things are remembered."""
        return len(self._told)

    def unsaid(self, what: Hashable) -> int | None:
        """Answer how often this was not told since it last was; None when it is not to be told now either."""
        now = self._monotonic()
        with self._lock:
            told_at, unsaid = self._told.get(what, (-REPEAT_AFTER_S, 0))
            if now - told_at < REPEAT_AFTER_S:
                self._told[what] = (told_at, unsaid + 1)
                return None
            if len(self._told) >= _MAX_REMEMBERED:
                self._told.clear()
            self._told[what] = (now, 0)
            return unsaid
