"""Says what peers do wrong, each thing of each host once a minute: a flood of faults must not fill the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

REPEAT_AFTER_S: Final = 60.0
_MAX_REMEMBERED: Final = 1_000
"""Told apart; a host has many addresses to choose from, so more than these are forgotten."""

log = structlog.get_logger(__name__)


class ListenerLog:
    """Remembers what was told; for the one thread of the listener."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Remember nothing yet."""
        self._monotonic = monotonic
        self._told: dict[tuple[str, str, str], tuple[float, int]] = {}

    def tell(self, event: str, *, host: str, peer: str, reason: str = "") -> None:
        """Log a warning, with how often the same was not logged since it last was."""
        key = (event, host, reason)
        now = self._monotonic()
        told_at, unsaid = self._told.get(key, (-REPEAT_AFTER_S, 0))
        if now - told_at < REPEAT_AFTER_S:
            self._told[key] = (told_at, unsaid + 1)
            return
        if len(self._told) >= _MAX_REMEMBERED:
            self._told.clear()
        self._told[key] = (now, 0)
        log.warning(event, peer=peer, reason=reason, repeated=unsaid)
