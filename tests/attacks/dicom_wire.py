"""Speak DICOM badly: PDUs, commands and data sets as raw bytes, with nothing of the product in them.

An attacker needs encoders that never refuse, and a verdict from outside needs a reader of its own.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

VERIFICATION = "1.2.840.10008.1.1"
WORKLIST = "1.2.840.10008.5.1.4.31"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MPPS = "1.2.840.10008.3.1.2.3.3"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
DICOM = "1.2.840.10008.3.1.1.1"
CANARY = "ZZCANARY^BIRD"
"""The patient of every attack: whatever is logged, this is not."""

ECHO, FIND, IMAGE, STEP, IMAGE_DEFLATED = 1, 3, 5, 7, 9
CONTEXTS = (
    (ECHO, VERIFICATION, IMPLICIT),
    (FIND, WORKLIST, IMPLICIT),
    (IMAGE, CT_IMAGE, EXPLICIT),
    (STEP, MPPS, IMPLICIT),
    (IMAGE_DEFLATED, CT_IMAGE, DEFLATED),
)
COMMAND, LAST = 1, 2
RELEASE = struct.pack(">BBII", 5, 0, 4, 0)

C_STORE, C_FIND, C_ECHO = 0x0001, 0x0020, 0x0030
N_EVENT_REPORT, N_SET, N_CREATE = 0x0100, 0x0120, 0x0140


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def context(number: int, abstract: str, transfer: str) -> bytes:
    return item(
        0x20,
        struct.pack(">BBBB", number, 0, 0, 0) + item(0x30, abstract.encode()) + item(0x40, transfer.encode()),
    )


def associate(
    *,
    contexts: bytes | None = None,
    called: bytes = b"BROKER",
    calling: bytes = b"CT1",
    application: str = DICOM,
    max_pdu: int = 16384,
) -> bytes:
    proposed = b"".join(context(*one) for one in CONTEXTS) if contexts is None else contexts
    user = item(0x50, item(0x51, struct.pack(">I", max_pdu)) + item(0x52, b"1.2.3.4"))
    head = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16), calling.ljust(16))
    return pdu(1, head + item(0x10, application.encode()) + proposed + user)


def pdv(number: int, control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, number, control) + data


def p_data(number: int, control: int, data: bytes) -> bytes:
    return pdu(4, pdv(number, control, data))


def command(field: int | None, *, data_set: bool = False, **uids: bytes) -> bytes:
    """Encode a command set; `sop_class`, `instance`, `requested_class`, `requested` are raw UIDs."""
    parts = []
    for tag, name in ((0x0002, "sop_class"), (0x0003, "requested_class")):
        if name in uids:
            parts.append(_implicit(tag, uids[name]))
    if field is not None:
        parts.append(_implicit(0x0100, struct.pack("<H", field)))
    parts.append(_implicit(0x0110, struct.pack("<H", 1)))
    if field in (C_STORE, C_FIND):
        parts.append(_implicit(0x0700, bytes(2)))
    parts.append(_implicit(0x0800, struct.pack("<H", 0x0001 if data_set else 0x0101)))
    for tag, name in ((0x1000, "instance"), (0x1001, "requested")):
        if name in uids:
            parts.append(_implicit(tag, uids[name]))
    if field == N_EVENT_REPORT:
        parts.append(_implicit(0x1002, struct.pack("<H", 1)))
    body = b"".join(parts)
    return _implicit(0x0000, struct.pack("<I", len(body))) + body


def _implicit(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, element, len(value)) + value


def implicit(group: int, element: int, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return struct.pack("<HHI", group, element, len(value)) + value


def explicit(group: int, element: int, vr: str, value: bytes, *, claims: int | None = None) -> bytes:
    value += (b"\0" if vr in ("UI", "OB", "OW") else b" ") * (len(value) % 2)
    length = len(value) if claims is None else claims
    if vr in ("OB", "OW", "SQ", "UN", "UT"):
        return struct.pack("<HH2sHI", group, element, vr.encode(), 0, length) + value
    return struct.pack("<HH2sH", group, element, vr.encode(), length) + value


def echo_request() -> bytes:
    return p_data(ECHO, COMMAND | LAST, command(C_ECHO, sop_class=VERIFICATION.encode()))


def image(
    instance: str | bytes,
    pixels: int | bytes = 256,
    *,
    study: bytes = b"1.2.826.0.1.9000",
    claims: int | None = None,
    before: bytes = b"",
) -> bytes:
    """Encode a CT image; `before` stands between identification and pixels, `claims` is the pixels' length."""
    uid = instance if isinstance(instance, bytes) else instance.encode()
    return b"".join(
        (
            explicit(0x0008, 0x0016, "UI", CT_IMAGE.encode()),
            explicit(0x0008, 0x0018, "UI", uid),
            explicit(0x0010, 0x0010, "PN", CANARY.encode()),
            explicit(0x0020, 0x000D, "UI", study),
            explicit(0x0020, 0x000E, "UI", b"1.2.826.0.1.1.1"),
            before,
            explicit(
                0x7FE0, 0x0010, "OW", bytes(pixels) if isinstance(pixels, int) else pixels, claims=claims
            ),
        )
    )


def nested_query(depth: int) -> bytes:
    """Encode a worklist query whose sequences lie inside each other, without lengths."""
    undefined = 0xFFFFFFFF
    opened = struct.pack("<HHIHHI", 0x0040, 0x0100, undefined, 0xFFFE, 0xE000, undefined)
    closed = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return implicit(0x0010, 0x0010, b"") + opened * depth + closed * depth


def nested_sequence(depth: int) -> bytes:
    """Encode the same for a data set in Explicit VR."""
    opened = struct.pack("<HH2sHIHHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    closed = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return opened * depth + closed * depth


def store_command(instance: bytes, *, sop_class: bytes = CT_IMAGE.encode()) -> bytes:
    return command(C_STORE, data_set=True, sop_class=sop_class, instance=instance)


def store(
    instance: str | bytes, data_set: bytes, *, number: int = IMAGE, piece: int = 16000
) -> Iterator[bytes]:
    """Cut a whole C-STORE request into PDUs."""
    uid = instance if isinstance(instance, bytes) else instance.encode()
    yield p_data(number, COMMAND | LAST, store_command(uid))
    yield from fragments(number, data_set, piece)


def fragments(number: int, data: bytes, piece: int = 16000) -> Iterator[bytes]:
    for at in range(0, max(len(data), 1), piece):
        yield p_data(number, LAST if at + piece >= len(data) else 0, data[at : at + piece])


def find(identifier: bytes) -> bytes:
    asked = command(C_FIND, data_set=True, sop_class=WORKLIST.encode())
    return p_data(FIND, COMMAND | LAST, asked) + b"".join(fragments(FIND, identifier))


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended, seen from the peer's side."""

    how: str
    after_s: float

    @property
    def is_end(self) -> bool:
        return self.how != "open"

    @property
    def is_answered(self) -> bool:
        """Tell whether the protocol's own refusal came before the close."""
        return self.how.startswith("A-")

    def __str__(self) -> str:
        return (
            f"{self.how} after {self.after_s:.1f} s"
            if self.is_end
            else f"still open after {self.after_s:.1f} s"
        )


class Caller:
    """One connection to a listener."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: bool = False,
        receive_buffer: int | None = None,
        timeout_s: float = 10.0,
    ):
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout_s)
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            believing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            believing.check_hostname, believing.verify_mode = False, ssl.CERT_NONE
            self.sock = believing.wrap_socket(self.sock)
        self._pending = b""
        self.statuses: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def associate(self, **more) -> Caller:
        """Open an association as a good peer does; raises ConnectionError when it is refused."""
        self.send(associate(**more))
        kind, body = self.next_pdu(10.0)
        if kind != 2:
            raise ConnectionRefusedError(f"PDU type {kind}: {body[:4].hex()}")
        return self

    def next_pdu(self, within_s: float) -> tuple[int, bytes]:
        """Read one PDU; raises TimeoutError, or ConnectionError at the end."""
        deadline = time.monotonic() + within_s
        while True:
            if len(self._pending) >= 6:
                size = 6 + int.from_bytes(self._pending[2:6], "big")
                if len(self._pending) >= size:
                    found, self._pending = self._pending[:size], self._pending[size:]
                    return found[0], found[6:]
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)
            chunk = self.sock.recv(65536)
            if not chunk:
                raise ConnectionError("closed")
            self._pending += chunk

    def status(self, within_s: float = 10.0) -> int:
        """Read PDUs until a response's status comes."""
        while True:
            kind, body = self.next_pdu(within_s)
            if kind != 4:
                raise ConnectionError(refusal(kind, body))
            for status in statuses(body):
                self.statuses.append(status)
                return status

    def answer(self, within_s: float = 10.0) -> str:
        """Answer what came to a request: a status, or how the connection ended."""
        began_s = time.monotonic()
        try:
            return f"{self.status(within_s):04X}"
        except TimeoutError:
            return f"no answer in {within_s:.0f} s"
        except ConnectionError as error:
            return f"{error} after {time.monotonic() - began_s:.1f} s"

    def ending(self, within_s: float) -> Ending:
        """Wait for the end; a refusal is told rather than the close that follows it."""
        began_s = time.monotonic()
        deadline = began_s + within_s
        try:
            while True:
                kind, body = self.next_pdu(max(deadline - time.monotonic(), 0.0))
                if kind == 4:
                    self.statuses += statuses(body)
                elif kind == 6:
                    return Ending("released", time.monotonic() - began_s)
                elif kind in (3, 7):
                    return Ending(refusal(kind, body), time.monotonic() - began_s)
        except TimeoutError:
            return Ending("open", time.monotonic() - began_s)
        except (ConnectionResetError, BrokenPipeError):
            return Ending("reset", time.monotonic() - began_s)
        except OSError:
            return Ending("closed", time.monotonic() - began_s)

    def push(self, chunk: bytes, total: int) -> int:
        """Send a chunk again and again; answer how many bytes were taken before the peer had enough."""
        sent = 0
        with contextlib.suppress(OSError):
            while sent < total:
                sent += self.sock.send(chunk)
        return sent

    def reset(self) -> None:
        """Close with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def refusal(kind: int, body: bytes) -> str:
    if kind == 3:
        return "A-ASSOCIATE-RJ {}/{}/{}".format(*body[1:4])
    return "A-ABORT {}/{}".format(*body[2:4]) if kind == 7 else f"PDU type {kind}"


def statuses(body: bytes) -> Iterator[int]:
    """Find the statuses in the command sets of one P-DATA-TF."""
    at = 0
    while at + 6 <= len(body):
        length, _number, control = struct.unpack_from(">IBB", body, at)
        value = body[at + 6 : at + 4 + length]
        at += 4 + length
        inner = 0
        while control & COMMAND and inner + 8 <= len(value):
            group, element, size = struct.unpack_from("<HHI", value, inner)
            if (group, element) == (0, 0x0900):
                yield struct.unpack_from("<H", value, inner + 8)[0]
            inner += 8 + size
