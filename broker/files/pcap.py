"""Writes what was said on a TCP connection as a pcap file (draft-ietf-opsawg-pcap), as if it had been seen on the wire.

We see what was read and written, not the packets: Ethernet, IP and TCP headers are made up around it, with sequence
numbers and checksums that fit. What was said and is missing leaves a gap in the sequence numbers, as a sniffer's would.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

NANOSECOND_MAGIC: Final = 0xA1B23C4D
_ETHERNET: Final = 1
_SNAP_LENGTH: Final = 262144
FILE_HEADER: Final = struct.pack("<IHHiIII", NANOSECOND_MAGIC, 2, 4, 0, 0, _SNAP_LENGTH, _ETHERNET)
_RECORD: Final = struct.Struct("<IIII")
RECORD_BYTES: Final = _RECORD.size
_NS: Final = 1_000_000_000

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
SEGMENT_BYTES: Final = 16 * 1024
"""Of payload in one packet: more than any network carries, and every reader takes it."""
_UNACKNOWLEDGED_BYTES: Final = 64 * 1024
"""After so many the other side acknowledges, or a reader would see a full window."""
_TCP: Final = struct.Struct("!HHIIBBHHH")
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
# Maximum segment size, window scale 14: what is shown must not look larger than what was allowed.
_SYN_OPTIONS: Final = struct.pack("!BBHBBBB", 2, 4, SEGMENT_BYTES, 1, 3, 3, 14)
_OURS, _THEIRS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
_WRAP: Final = 0xFFFFFFFF


class Packets:
    """Makes the packets of one connection; `True` is the direction towards us."""

    def __init__(self, local: tuple[str, int], peer: tuple[str, int]) -> None:
        self._from_peer = _Direction(peer, local, _THEIRS, _OURS)
        self._from_us = _Direction(local, peer, _OURS, _THEIRS)

    def opened(self, at_ns: int) -> Iterator[bytes]:
        """Make the three packets a connection begins with."""
        theirs, ours = self._from_peer, self._from_us
        theirs.sequence = ours.sequence = 0
        yield theirs.packet(at_ns, SYN, options=_SYN_OPTIONS)
        theirs.sequence = theirs.acknowledged = 1
        yield ours.packet(at_ns, SYN | ACK, acknowledges=1, options=_SYN_OPTIONS)
        ours.sequence = ours.acknowledged = 1
        yield theirs.packet(at_ns, ACK, acknowledges=1)

    def said(self, at_ns: int, data: bytes, *, by_peer: bool, skipped_bytes: int = 0) -> Iterator[bytes]:
        """Make the packets of something said, after bytes that are not there."""
        speaker, hearer = self._pair(by_peer=by_peer)
        speaker.sequence += skipped_bytes
        for begin in range(0, len(data), SEGMENT_BYTES):
            segment = data[begin : begin + SEGMENT_BYTES]
            is_last = begin + SEGMENT_BYTES >= len(data)
            yield speaker.packet(
                at_ns, PSH | ACK if is_last else ACK, acknowledges=hearer.sequence, payload=segment
            )
            speaker.sequence += len(segment)
            hearer.acknowledged = hearer.sequence
            if speaker.sequence - speaker.acknowledged >= _UNACKNOWLEDGED_BYTES:
                speaker.acknowledged = speaker.sequence
                yield hearer.packet(at_ns, ACK, acknowledges=speaker.sequence)

    def ended(self, at_ns: int, *, by_peer: bool, reset: bool, skipped_bytes: int = 0) -> bytes:
        """Make the packet by which one side says that it is done, or that all is over."""
        speaker, hearer = self._pair(by_peer=by_peer)
        speaker.sequence += skipped_bytes
        packet = speaker.packet(at_ns, (RST if reset else FIN) | ACK, acknowledges=hearer.sequence)
        speaker.sequence += 1
        return packet

    def _pair(self, *, by_peer: bool) -> tuple[_Direction, _Direction]:
        return (self._from_peer, self._from_us) if by_peer else (self._from_us, self._from_peer)


class _Direction:
    """One direction of a connection: its headers, and how far it has come."""

    def __init__(
        self, source: tuple[str, int], target: tuple[str, int], source_mac: bytes, target_mac: bytes
    ) -> None:
        addresses = [ipaddress.ip_address(host.partition("%")[0]) for host, _ in (source, target)]
        if len({address.version for address in addresses}) == 2:  # an IPv4 peer of an IPv6 listener
            addresses = [_as_ipv6(address) for address in addresses]
        self._is_ipv4 = addresses[0].version == 4
        self._source, self._target = (address.packed for address in addresses)
        self._ports = (source[1], target[1])
        self._ethernet = target_mac + source_mac + (b"\x08\x00" if self._is_ipv4 else b"\x86\xdd")
        self._number = 0
        self.sequence = 1
        self.acknowledged = 1

    def packet(
        self, at_ns: int, flags: int, *, acknowledges: int = 0, payload: bytes = b"", options: bytes = b""
    ) -> bytes:
        """Make one packet with the header of its record."""
        size = _TCP.size + len(options) + len(payload)
        offset = (_TCP.size + len(options)) // 4 << 4
        fields = (*self._ports, self.sequence & _WRAP, acknowledges & _WRAP, offset, flags, 0xFFFF)
        pseudo = self._source + self._target + struct.pack("!II", size, 6)
        tcp = _TCP.pack(*fields, 0, 0) + options
        tcp = _TCP.pack(*fields, checksum(pseudo + tcp + payload), 0) + options
        whole = self._ethernet + self._internet_header(size) + tcp + payload
        return _RECORD.pack(at_ns // _NS, at_ns % _NS, len(whole), len(whole)) + whole

    def _internet_header(self, size: int) -> bytes:
        if not self._is_ipv4:
            return _IPV6.pack(6 << 28, size, 6, 64, self._source, self._target)
        self._number = (self._number + 1) & 0xFFFF
        fields = (0x45, 0, 20 + size, self._number, 0x4000, 64, 6)
        header = _IPV4.pack(*fields, 0, self._source, self._target)
        return _IPV4.pack(*fields, checksum(header), self._source, self._target)


def checksum(data: bytes) -> int:
    """Answer the Internet checksum (RFC 1071).

    Adding up 16-bit words with the carry put back is the remainder of the whole number by 65535: one call in C.
    """
    if len(data) % 2:
        data += b"\x00"
    remainder = int.from_bytes(data, "big") % 0xFFFF
    # 0 and 65535 are the same remainder; a header is never all zeros, so the sum is 65535.
    return 0 if remainder == 0 else 0xFFFF - remainder


def _as_ipv6(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv6Address):
        return address
    return ipaddress.IPv6Address(b"\x00" * 10 + b"\xff\xff" + address.packed)


def records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Answer (time in ns, record) of a file as far as it is whole: somebody may still be writing, or have died."""
    if file.read(len(FILE_HEADER)) != FILE_HEADER:
        return
    while len(head := file.read(RECORD_BYTES)) == RECORD_BYTES:
        seconds, nanoseconds, size, _ = _RECORD.unpack(head)
        if size > _SNAP_LENGTH or len(body := file.read(size)) < size:
            return
        yield seconds * _NS + nanoseconds, head + body
