"""Reads pcap files on its own, by the standards: every length and checksum is looked at, every byte is put in place."""

import ipaddress
import struct
from collections import defaultdict
from dataclasses import dataclass, field

SYN, FIN, RST, ACK = 2, 1, 4, 16


@dataclass
class Packet:
    at_ns: int
    source: tuple
    target: tuple
    sequence: int
    acknowledges: int
    flags: int
    payload: bytes


@dataclass
class Said:
    """One direction of a connection, put together by sequence numbers; `gaps` are bytes that are not there."""

    text: bytes = b""
    gaps: list = field(default_factory=list)
    ended: str = ""


def naive_checksum(data):
    """RFC 1071, as its text says it: add words, put the carry back, complement."""
    data += b"\x00" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packets(raw):
    """Answer the packets of a file."""
    magic, major, minor, zone, _, snap, link = struct.unpack("<IHHiIII", raw[:24])
    assert (magic, major, minor, zone, link) == (0xA1B23C4D, 2, 4, 0, 1)
    position, found = 24, []
    while position < len(raw):
        seconds, nanoseconds, stored, original = struct.unpack_from("<IIII", raw, position)
        assert stored == original <= snap
        frame = raw[position + 16 : position + 16 + stored]
        assert len(frame) == stored, "the file is cut"
        assert nanoseconds < 10**9
        found.append(_packet(seconds * 10**9 + nanoseconds, frame))
        position += 16 + stored
    return found


def _packet(at_ns, frame):
    kind = struct.unpack("!H", frame[12:14])[0]
    body = frame[14:]
    if kind == 0x0800:
        assert body[0] == 0x45
        assert naive_checksum(body[:20]) == 0
        size = struct.unpack("!H", body[2:4])[0]
        assert size == len(body)
        addresses, protocol, tcp = (body[12:16], body[16:20]), body[9], body[20:]
    else:
        assert kind == 0x86DD
        assert struct.unpack("!H", body[4:6])[0] == len(body) - 40
        addresses, protocol, tcp = (body[8:24], body[24:40]), body[6], body[40:]
    assert protocol == 6
    pseudo = b"".join(addresses) + struct.pack("!II", len(tcp), 6)
    assert naive_checksum(pseudo + tcp) == 0
    source, target, sequence, acknowledges, offset, flags, _, _, _ = struct.unpack("!HHIIBBHHH", tcp[:20])
    hosts = [str(ipaddress.ip_address(one)) for one in addresses]
    head = (offset >> 4) * 4
    return Packet(at_ns, (hosts[0], source), (hosts[1], target), sequence, acknowledges, flags, tcp[head:])


def conversations(raw):
    """Answer (source, target) -> what was said in that direction."""
    said, expected = defaultdict(Said), {}
    for packet in packets(raw):
        way = (packet.source, packet.target)
        one = said[way]
        if packet.flags & SYN:
            expected[way] = packet.sequence + 1
            continue
        start = expected.setdefault(way, packet.sequence)
        gap = (packet.sequence - start) % 2**32
        if gap:
            one.gaps.append((len(one.text), gap))
        one.text += packet.payload
        expected[way] = (packet.sequence + len(packet.payload)) % 2**32
        if packet.flags & (FIN | RST):
            one.ended = "reset" if packet.flags & RST else "end"
    return dict(said)
