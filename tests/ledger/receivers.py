"""Receivers that write down what they get before they answer: a storage SCP and a RIS.

The storage SCP reads PDUs with nothing but `struct`: what sends to it cannot share a mistake with it.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from tests.ledger.ledger import Ledger
from tests.peers import MllpSink

Answer = Callable[[str], int | None]
"""Takes a SOP Instance UID that has been written down; answers the status, or None to hang up without one."""
_RECORDS = 0x0101  # Command Data Set Type: none


class StorageReceiver:
    """A storage SCP that takes everything in the first transfer syntax proposed."""

    def __init__(
        self, ledger: Ledger, destination: str, *, port: int = 0, answer: Answer | None = None
    ) -> None:
        """Listen at once; `answer` may be changed at any time."""
        self.answer: Answer = answer or (lambda uid: 0x0000)
        receiver = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(ConnectionError, _Closed):
                    _Served(self.request, ledger, destination, receiver.answer).run()

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and cut what is open."""
        self._server.shutdown()
        self._server.cut()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in tuple(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Closed(Exception):
    """The peer is gone, or is to be left."""


class _Served:
    """One association (PS3.8 section 9.3)."""

    def __init__(self, connection: socket.socket, ledger: Ledger, destination: str, answer: Answer) -> None:
        self._connection, self._ledger, self._destination, self._answer = (
            connection,
            ledger,
            destination,
            answer,
        )
        self._command, self._data = bytearray(), bytearray()
        self._request: dict[tuple[int, int], bytes] = {}

    def run(self) -> None:
        while True:
            kind, _, length = struct.unpack(">BBL", self._take(6))
            body = self._take(length)
            if kind == 0x01:
                self._send(0x02, _acceptance(body))
            elif kind == 0x04:
                self._data_came(body)
            elif kind == 0x05:
                self._send(0x06, bytes(4))
            else:
                raise _Closed

    def _take(self, count: int) -> bytes:
        taken = bytearray()
        while len(taken) < count:
            part = self._connection.recv(min(count - len(taken), 1 << 20))
            if not part:
                raise _Closed
            taken += part
        return bytes(taken)

    def _send(self, kind: int, body: bytes) -> None:
        self._connection.sendall(struct.pack(">BBL", kind, 0, len(body)) + body)

    def _data_came(self, body: bytes) -> None:
        at = 0
        while at < len(body):
            length, context, header = struct.unpack_from(">LBB", body, at)
            fragment = body[at + 6 : at + 4 + length]
            at += 4 + length
            (self._command if header & 1 else self._data).extend(fragment)
            if header == 0b11:
                self._request = _elements(bytes(self._command))
                self._command.clear()
                if _number(self._request[0, 0x0800]) == _RECORDS:
                    self._respond(context, 0x0000)
            elif header == 0b10:
                self._stored(context)

    def _stored(self, context: int) -> None:
        uid = self._request[0, 0x1000].rstrip(b"\0 ").decode()
        content = bytes(self._data)
        self._data.clear()
        self._ledger.received(self._destination, uid, content)
        status = self._answer(uid)
        if status is None:
            raise _Closed
        self._respond(context, status)

    def _respond(self, context: int, status: int) -> None:
        request = self._request
        values = {
            0x0002: request[0, 0x0002],
            0x0100: struct.pack("<H", _number(request[0, 0x0100]) | 0x8000),
            0x0120: request[0, 0x0110],
            0x0800: struct.pack("<H", _RECORDS),
            0x0900: struct.pack("<H", status),
        }
        if (0, 0x1000) in request:
            values[0x1000] = request[0, 0x1000]
        command = b"".join(
            struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in sorted(values.items())
        )
        command = struct.pack("<HHLL", 0, 0, 4, len(command)) + command
        self._send(0x04, struct.pack(">LBB", len(command) + 2, context, 0b11) + command)


def _elements(command: bytes) -> dict[tuple[int, int], bytes]:
    found, at = {}, 0
    while at < len(command):
        group, number, length = struct.unpack_from("<HHL", command, at)
        found[group, number] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _items(body: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(body):
        kind, _, length = struct.unpack_from(">BBH", body, at)
        found.append((kind, body[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _acceptance(request: bytes) -> bytes:
    """Accept every context in its first transfer syntax."""
    parts = [request[:68]]
    for kind, body in _items(request[68:]):
        if kind == 0x10:
            parts.append(_item(0x10, body))
        elif kind == 0x20:
            syntax = next(inner for inner_kind, inner in _items(body[4:]) if inner_kind == 0x40)
            parts.append(_item(0x21, body[:1] + bytes(3) + _item(0x40, syntax)))
    user = _item(0x51, struct.pack(">L", 128 * 1024)) + _item(0x52, b"2.25.1561")
    return b"".join((*parts, _item(0x50, user)))


class RisReceiver(MllpSink):
    """A RIS that writes down each message about an order, then answers AA, or what it is told."""

    def __init__(self, ledger: Ledger, destination: str = "ris", *, port: int = 0) -> None:
        super().__init__(port)
        self.messages = _Received(ledger, destination)


class _Received(list[str]):
    def __init__(self, ledger: Ledger, destination: str) -> None:
        super().__init__()
        self._ledger, self._destination = ledger, destination

    def append(self, message: str) -> None:
        fields = {line.split("|")[0]: line.split("|") for line in message.split("\r") if line}
        order = fields["ORC"]
        self._ledger.received(
            self._destination,
            fields["MSH"][9],
            message.encode("latin-1"),
            accession=order[3].split("^")[0].removeprefix("FI"),
            status=order[5],
        )
        super().append(message)
