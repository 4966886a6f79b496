"""Knows who is let in for a time: read from the database every second, on a thread of its own.

The path that answers a device looks at what was read last; it never waits for a database. While that is away the last
list stays in force, and an admission ends at its time all the same.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import structlog

from broker.errors import BrokerError
from broker.workflow.devices_port import Admission

READ_EVERY_S: Final = 1.0
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

log = structlog.get_logger(__name__)


class _Guest(NamedTuple):
    network: Network
    until: datetime


class Guests:
    """Answers whether somebody is let in for a time."""

    def __init__(
        self,
        read: Callable[[datetime], Sequence[Admission]],
        now: Callable[[], datetime],
        *,
        every_s: float = READ_EVERY_S,
    ) -> None:
        """Know nobody before `start` or `refresh`."""
        self._read = read
        self._now = now
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._guests: dict[str, tuple[_Guest, ...]] = {}
        self._fails = False

    def start(self) -> None:
        """Read, and go on reading."""
        self.refresh()
        self._thread = threading.Thread(target=self._run, name="guests", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)

    def admits(self, ae_title: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Tell whether a title is let in from an address now."""
        guests = self._guests.get(ae_title)
        if guests is None:
            return False
        now = self._now()
        return any(address in guest.network and now < guest.until for guest in guests)

    def refresh(self) -> None:
        """Read who is let in; when that is not possible, what was read before stays."""
        try:
            found = self._read(self._now())
        except BrokerError as error:
            if not self._fails:
                log.warning("admissions not read; the last ones stay", error=type(error).__name__)
            self._fails = True
            return
        self._fails = False
        guests: dict[str, tuple[_Guest, ...]] = {}
        for one in found:
            guest = _Guest(ipaddress.ip_network(one.address, strict=False), one.until)
            guests[one.ae_title] = (*guests.get(one.ae_title, ()), guest)
        self._guests = guests  # replaced as a whole: whoever looks sees the old or the new

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self.refresh()
