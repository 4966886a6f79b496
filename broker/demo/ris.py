"""The RIS: sends orders as an MLLP client, takes status messages as an MLLP server."""

from __future__ import annotations

import socket
import socketserver
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from broker.demo.hl7_messages import Message, StatusMessage, acknowledge, read_acknowledgement, read_status

_START, _END = b"\x0b", b"\x1c\x0d"
_TIMEOUT_S = 20.0
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sent:
    """A message and the answer it got."""

    message: Message
    code: str
    answers: str
    """MSA-2: which message the answer is for."""

    @property
    def accepted(self) -> bool:
        """Whether exactly this message was acknowledged with AA."""
        return self.code == "AA" and self.answers == self.message.control_id


@dataclass
class Ris:
    """One RIS with its ledgers. Leaving the block closes its server."""

    hl7_port: int
    port: int
    sent: list[Sent] = field(default_factory=list)
    statuses: list[StatusMessage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._server = _Server(("127.0.0.1", self.port), _Handler, self)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="demo-ris", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def control_id(self) -> str:
        """Make the next MSH-10."""
        self._number += 1
        return f"DEMO{self._number:06d}"

    def send(self, message: Message) -> Sent:
        """Send one message on a connection of its own and wait for the answer."""
        with socket.create_connection(("127.0.0.1", self.hl7_port), timeout=_TIMEOUT_S) as connection:
            connection.sendall(_START + message.encoded + _END)
            answer = _read_frame(connection)
        done = Sent(message, *read_acknowledgement(answer or b""))
        self.sent.append(done)
        return done

    def take(self, data: bytes) -> bytes:
        """Note a status message, answer its acknowledgement."""
        with self._lock:
            self.statuses.append(read_status(data))
        return acknowledge(data, now=datetime.now(UTC))

    def heard_of(self, placer_order_number: str) -> list[str]:
        """List the order statuses heard for one order, in their order."""
        with self._lock:
            return [s.order_status for s in self.statuses if s.placer_order_number == placer_order_number]


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[_Handler], ris: Ris) -> None:
        self.ris = ris
        super().__init__(address, handler)


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        """Answer frames until the other side hangs up."""
        while (frame := _read_frame(self.request)) is not None:
            self.request.sendall(_START + self.server.ris.take(frame) + _END)


def _read_frame(connection: socket.socket) -> bytes | None:
    """Read one block; None when the other side is gone."""
    connection.settimeout(_TIMEOUT_S)
    data = b""
    while not data.endswith(_END):
        try:
            chunk = connection.recv(65536)
        except OSError:
            return None
        if not chunk or len(data) > _MAX_BYTES:
            return None
        data += chunk
    return data[data.index(_START) + 1 : -len(_END)] if _START in data else None
