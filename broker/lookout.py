"""Reads every second, on a thread of its own, what people have decided for a time, and tells the parts of a listener.

Who answers a peer looks at what was told last and never waits for a database. While that is away the last stays in force.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from broker.errors import BrokerError
from broker.workflow.standing_orders import StandingOrders

READ_EVERY_S: Final = 1.0

log = structlog.get_logger(__name__)


class Lookout:
    """Reads again and again."""

    def __init__(
        self,
        read: Callable[[], StandingOrders],
        *followers: Callable[[StandingOrders], None],
        every_s: float = READ_EVERY_S,
    ) -> None:
        """Tell nobody before `start` or `look`."""
        self._read = read
        self._followers = followers
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._fails = False

    def start(self) -> None:
        """Read, tell, and go on."""
        self.look()
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)

    def look(self) -> None:
        """Read once and tell everybody; when that is not possible, what was told before stays."""
        try:
            found = self._read()
        except BrokerError as error:
            if not self._fails:
                log.warning("standing orders not read; the last ones stay", error=type(error).__name__)
            self._fails = True
            return
        self._fails = False
        for follow in self._followers:
            follow(found)

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self.look()
