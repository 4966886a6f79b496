"""Knows who is let in for a time: the path that answers a device looks at the list that was read last."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from broker.workflow.devices_port import Admission

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Guest(NamedTuple):
    network: Network
    until: datetime


class Guests:
    """Answers whether somebody is let in for a time."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        """Know nobody before `follow`."""
        self._now = now
        self._guests: dict[str, tuple[_Guest, ...]] = {}

    def admits(self, ae_title: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Tell whether a title is let in from an address now."""
        guests = self._guests.get(ae_title)
        if guests is None:
            return False
        now = self._now()
        return any(address in guest.network and now < guest.until for guest in guests)

    def follow(self, admissions: Iterable[Admission]) -> None:
        """Take note of who is let in; each ends at its time whether anybody is told or not."""
        guests: dict[str, tuple[_Guest, ...]] = {}
        for one in admissions:
            guest = _Guest(ipaddress.ip_network(one.address, strict=False), one.until)
            guests[one.ae_title] = (*guests.get(one.ae_title, ()), guest)
        self._guests = guests  # replaced as a whole: whoever looks sees the old or the new
