"""Close connections after our last word, without a thread that waits for each (Sta13 of PS3.8).

Closing over unread bytes sends a reset, which may overtake what we just sent: so the peer closes first, or its time
is up. Most peers close at once, and the next connection that is accepted sees them off; a thread of its own looks
after the others, and sleeps while there are none.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from broker.dicom.network.channel import Channel

_SOONEST_S: Final = 0.02
_LATEST_S: Final = 0.25
_AT_ONCE: Final = 2
"""Looked at for each new connection: more than one, so that there are never more and more of them."""


class Leaving(Protocol):
    """Be a connection on which everything is said."""

    channel: Channel


Connection = TypeVar("Connection", bound=Leaving)


class Farewells(Generic[Connection]):
    """Hold the connections that wait for their peers to close them."""

    def __init__(self, closed: Callable[[Connection], None], *, linger_s: float) -> None:
        """Hold nobody yet; `closed` is told of each that is over."""
        self._closed = closed
        self._linger_s = linger_s
        self._leaving: deque[tuple[Connection, float]] = deque()
        self._somebody = threading.Event()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread that looks after those who take their time."""
        threading.Thread(target=self._run, name="dicom-farewell", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end; whoever is still here is the caller's."""
        self._stopped.set()
        self._somebody.set()

    def add(self, connection: Connection) -> None:
        """Close the connection when its peer has, or has had time to."""
        self._leaving.append((connection, time.monotonic() + self._linger_s))
        if not self._somebody.is_set():
            self._somebody.set()

    def hasten(self, linger_s: float) -> None:
        """Give everybody no more than this, from now on."""
        self._linger_s = min(self._linger_s, linger_s)
        latest = time.monotonic() + self._linger_s
        for _ in range(len(self._leaving)):
            try:
                connection, deadline = self._leaving.popleft()
            except IndexError:  # another thread has just seen the last one off
                return
            self._leaving.append((connection, min(deadline, latest)))

    def see_off(self, most: int = _AT_ONCE) -> None:
        """Close those among the next few whose peers have closed, or whose time is up."""
        for _ in range(min(most, len(self._leaving))):
            try:
                connection, deadline = self._leaving.popleft()
            except IndexError:
                return
            if connection.channel.has_ended() or time.monotonic() >= deadline:
                connection.channel.close()
                self._closed(connection)
            else:
                self._leaving.append((connection, deadline))

    def see_all_off(self) -> None:
        """Close all whose peers have closed, or whose time is up."""
        self.see_off(len(self._leaving))

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._somebody.wait()
            pause_s = _SOONEST_S
            while self._leaving and not self._stopped.wait(pause_s):
                self.see_all_off()
                pause_s = min(2 * pause_s, _LATEST_S)
            self._somebody.clear()
            if self._leaving:  # came between the last look and now
                self._somebody.set()
