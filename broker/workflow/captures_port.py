"""Wire captures: what a device or a sender says, byte by byte, for a time; and what is kept of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Protocol

DICOM, HL7 = "dicom", "hl7"
PROTOCOLS = (DICOM, HL7)
MOST_RUNNING = 8
"""At once: each costs its listeners a copy of what it covers."""


@dataclass(frozen=True, slots=True)
class Capture:
    """One capture, over or not; its row is kept when its bytes are gone."""

    id: int
    protocol: str
    """One of PROTOCOLS."""
    name: str
    """Calling AE title, or sending application (MSH-3); empty: whoever calls from the address."""
    address: str
    """An address or a network; empty: anywhere."""
    since: datetime
    until: datetime
    reason: str
    actor: str
    ended_at: datetime | None = None
    ended_by: str | None = None
    deleted_at: datetime | None = None
    """When its bytes were removed."""
    deleted_by: str | None = None

    def runs(self, now: datetime) -> bool:
        """Tell whether bytes are still written."""
        return self.ended_at is None and now < self.until

    def hears(self, ae_title: str, addresses: Collection[str]) -> bool:
        """Tell whether a device that calls from these addresses is heard."""
        if self.protocol != DICOM or self.name not in ("", ae_title):
            return False
        if not self.address:
            return True
        network = ip_network(self.address)
        return any(ip_address(address) in network for address in addresses)

    @property
    def over_at(self) -> datetime:
        """When it ended, or will by itself."""
        return self.ended_at or self.until

    @property
    def about(self) -> str:
        """Whom it covers, in a few words."""
        return " at ".join(part for part in (self.name, self.address) if part)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What lies on the disk of one capture, up to a second ago."""

    size_bytes: int = 0
    connections: int = 0
    packets: int = 0
    left_out_bytes: int = 0
    """That were said and are not in it."""
    why: tuple[str, ...] = ()
    """Why something was left out."""


class Captures(Protocol):
    """Stored captures."""

    def add(self, capture: Capture) -> int: ...
    def get(self, capture: int) -> Capture:
        """Answer one, locked for this transaction. Raises NotFound."""
        ...

    def running(self, *, now: datetime) -> list[Capture]: ...
    def overdue(self, *, now: datetime) -> list[Capture]:
        """Answer those whose time is over although nobody has ended them."""
        ...

    def kept(self) -> list[Capture]:
        """Answer those that have ended and whose bytes are not removed, the oldest first."""
        ...

    def end(self, capture: int, *, by: str, at: datetime) -> None: ...
    def forget_bytes(self, capture: int, *, by: str, at: datetime) -> None: ...


class CaptureReports(Protocol):
    """Reads for the pages of captures."""

    def captures(
        self,
        *,
        name: str | None = None,
        protocol: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[Capture]:
        """Answer captures, the newest first; `before` is the id of the last one seen."""
        ...

    def capture(self, capture: int) -> Capture:
        """Answer one. Raises NotFound."""
        ...

    def known_captures(self, captures: Sequence[int]) -> Sequence[Capture]:
        """Answer those among these that there are."""
        ...


class CaptureFiles(Protocol):
    """The bytes of captures."""

    def has_room(self) -> bool:
        """Tell whether the disk is above its reserve."""
        ...

    def recorded(self, capture: int) -> Recorded: ...
    def read(self, capture: int) -> Iterator[bytes]:
        """Answer one pcap file of everything, by time."""
        ...

    def remove(self, capture: int) -> bool:
        """Remove the bytes; False when that did not succeed, and is to be tried again."""
        ...

    def kept(self) -> list[int]:
        """Answer the captures of which there are bytes."""
        ...
