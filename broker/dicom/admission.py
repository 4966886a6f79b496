"""Who may open an association here: the devices of the site file, and unknown ones as the listener allows."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Protocol

import structlog

from broker.dicom.network.pdu import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
    Rejection,
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOK_UP_AGAIN_AFTER_S = 30.0

log = structlog.get_logger(__name__)


class UnknownDevices(Enum):
    """Whether devices that are not listed are let in."""

    NEVER = "never"
    LOOPBACK = "loopback"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class AdmittedDevice:
    """A listed device; without networks and a host name it may call from anywhere."""

    ae_title: str
    networks: tuple[Network, ...] = ()
    host_name: str | None = None
    """Looked up when the device calls: a name service that is away keeps out that device, and no other."""


def addresses_of(name: str) -> tuple[Network, ...]:
    """Ask the name service. Raises OSError."""
    found = {str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    return tuple(ipaddress.ip_network(address) for address in sorted(found))


class HostNames:
    """Addresses of host names: asked for again when a caller does not fit, and not more often than bearable."""

    def __init__(
        self,
        look_up: Callable[[str], tuple[Network, ...]] = addresses_of,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know nothing yet."""
        self._look_up = look_up
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Network, ...]] = {}
        self._asked_at: dict[str, float] = {}

    def known(self) -> Iterable[Network]:
        """Answer every address found so far, without asking."""
        return [network for networks in list(self._known.values()) for network in networks]

    def is_at(self, name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Tell whether a host of this name has the address."""
        if any(address in network for network in self._known.get(name, ())):
            return True
        with self._lock:
            now = self._monotonic()
            if now - self._asked_at.get(name, -LOOK_UP_AGAIN_AFTER_S) < LOOK_UP_AGAIN_AFTER_S:
                return False
            self._asked_at[name] = now
        try:
            self._known[name] = self._look_up(name)
        except OSError as error:  # the last answer stays: an old address is better than none
            log.warning("host name not found", host=name, error=type(error).__name__)
        return any(address in network for network in self._known.get(name, ()))


_parsed = lru_cache(maxsize=1024)(ipaddress.ip_address)
"""Addresses as read before: devices come back all day."""


class GuestList(Protocol):
    """Who is let in for a time."""

    def admits(self, ae_title: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Tell whether a title is let in from an address now; must not wait for anything."""


class Nobody:
    """A list without guests."""

    def admits(self, ae_title: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:  # noqa: ARG002
        """Let nobody in."""
        return False


@dataclass(frozen=True, slots=True)
class DevicePolicy:
    """Admit by called title, calling title and address (the engine's AssociationPolicy)."""

    ae_title: str
    devices: Iterable[AdmittedDevice]
    unknown: UnknownDevices
    names: HostNames = field(default_factory=HostNames)
    guests: GuestList = field(default_factory=Nobody)
    _by_title: dict[str, AdmittedDevice] = field(init=False, default_factory=dict)
    _networks: list[Network] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Index the devices once; this is asked for every association."""
        for device in self.devices:
            self._by_title[device.ae_title] = device
            self._networks.extend(device.networks)

    def admit(
        self,
        calling_ae_title: str,
        called_ae_title: str,
        address: str,
        tls_subject: str | None,  # noqa: ARG002
    ) -> Rejection | None:
        """Return why this association is rejected, or None to let it in."""
        if called_ae_title != self.ae_title:
            return CALLED_AE_TITLE_NOT_RECOGNIZED
        ip = _parsed(address)
        device = self._by_title.get(calling_ae_title)
        if device is not None and self._is_where_it_should_be(device, ip):
            return None
        if self.unknown is UnknownDevices.ALWAYS or (
            self.unknown is UnknownDevices.LOOPBACK and ip.is_loopback
        ):
            return None
        return None if self.guests.admits(calling_ae_title, ip) else CALLING_AE_TITLE_NOT_RECOGNIZED

    def listed(self, address: str) -> bool:
        """Tell whether a listed device lives at this address."""
        ip = _parsed(address)
        return any(ip in network for network in (*self._networks, *self.names.known()))

    def _is_where_it_should_be(
        self, device: AdmittedDevice, ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> bool:
        if device.host_name is not None:
            return self.names.is_at(device.host_name, ip)
        return not device.networks or any(ip in network for network in device.networks)
