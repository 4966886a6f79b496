"""Says what peers do wrong, each thing of each host once a minute."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from broker.workflow.once_a_minute import OnceAMinute

log = structlog.get_logger(__name__)


class ListenerLog:
    """Be the voice of a listener."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Have told nothing yet."""
        self._once = OnceAMinute(monotonic)

    def tell(self, event: str, *, host: str, peer: str, reason: str = "") -> None:
        """Log a warning, with how often the same was not logged since it last was."""
        unsaid = self._once.unsaid((event, host, reason))
        if unsaid is not None:
            log.warning(event, peer=peer, reason=reason, repeated=unsaid)
