"""Who may open an association here: the devices of the site file, and unknown ones as the listener allows."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from broker.dicom.network.pdu import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
    Rejection,
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class UnknownDevices(Enum):
    """Whether devices that are not listed are let in."""

    NEVER = "never"
    LOOPBACK = "loopback"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class AdmittedDevice:
    """A listed device; without networks it may call from anywhere."""

    ae_title: str
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class DevicePolicy:
    """Admit by called title, calling title and address (the engine's AssociationPolicy)."""

    ae_title: str
    devices: Iterable[AdmittedDevice]
    unknown: UnknownDevices
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
        ip = ipaddress.ip_address(address)
        device = self._by_title.get(calling_ae_title)
        if device is not None and (not device.networks or any(ip in network for network in device.networks)):
            return None
        if self.unknown is UnknownDevices.ALWAYS or (
            self.unknown is UnknownDevices.LOOPBACK and ip.is_loopback
        ):
            return None
        return CALLING_AE_TITLE_NOT_RECOGNIZED

    def listed(self, address: str) -> bool:
        """Tell whether a listed device lives at this address."""
        ip = ipaddress.ip_address(address)
        return any(ip in network for network in self._networks)
