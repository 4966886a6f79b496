"""Move bytes over one TCP or TLS connection, blocking in the kernel, never without a deadline."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Final

Buffer = bytes | bytearray | memoryview

_TIMEVAL: Final = struct.Struct("@ll")
_AT_ONCE: Final = struct.pack("@ii", 1, 0)  # struct linger: on, for no time
_MAX_PARTS: Final = 512  # below IOV_MAX everywhere
_MICROSECONDS: Final = 1_000_000
_DRAINED_BYTES: Final = 1024 * 1024


class PeerDoesNotRead(TimeoutError):
    """The peer does not take what we send: nothing more can be said to it."""


class Channel:
    """Be one plain TCP connection.

    Deadlines are SO_RCVTIMEO and SO_SNDTIMEO: one system call per read, where Python's own time-outs take two.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._armed: dict[int, float] = {}

    def receive_into(self, space: memoryview, timeout_s: float) -> int:
        """Receive something; 0 at the end of the stream; TimeoutError when nothing came in time."""
        self._arm(socket.SO_RCVTIMEO, timeout_s)
        try:
            return self._sock.recv_into(space)
        except BlockingIOError:
            raise TimeoutError from None

    def receive_all_into(self, space: memoryview, timeout_s: float) -> int:
        """Receive until the space is full; less only when the time is up or the stream ends."""
        self._arm(socket.SO_RCVTIMEO, timeout_s)
        try:
            return self._sock.recv_into(space, 0, socket.MSG_WAITALL)
        except BlockingIOError:
            raise TimeoutError from None

    def receive_now(self, space: memoryview) -> int | None:
        """Receive what is already here, or None."""
        try:
            return self._sock.recv_into(space, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def send(self, parts: Sequence[Buffer], *, timeout_s: float, min_bytes_per_s: float) -> None:
        """Send all parts, or raise PeerDoesNotRead when the peer does not take them at the least rate."""
        try:
            self._send_all(parts, timeout_s, min_bytes_per_s)
        except TimeoutError:
            self._forget_unsent()
            raise PeerDoesNotRead from None

    def _send_all(self, parts: Sequence[Buffer], timeout_s: float, min_bytes_per_s: float) -> None:
        self._arm(socket.SO_SNDTIMEO, timeout_s)
        size = sum(map(len, parts))
        first = parts[:_MAX_PARTS] if len(parts) > _MAX_PARTS else parts
        started = time.monotonic()
        sent = self._send_some(first)
        if sent == size:
            return
        rest: list[Buffer] = list(parts)
        total = 0
        while True:
            total += sent
            if total == size:
                return
            if time.monotonic() - started > timeout_s + total / min_bytes_per_s:
                raise TimeoutError
            _drop(rest, sent)
            sent = self._send_some(rest[:_MAX_PARTS])

    def _send_some(self, parts: Sequence[Buffer]) -> int:
        try:
            if len(parts) == 1:
                return self._sock.send(parts[0])
            return self._sock.sendmsg(parts)
        except BlockingIOError:
            raise TimeoutError from None

    def _forget_unsent(self) -> None:
        """Let closing reset the connection: else the kernel would keep what was not taken for minutes."""
        with contextlib.suppress(OSError):  # the connection may be gone already
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)

    def _arm(self, option: int, timeout_s: float) -> None:
        armed = self._armed.get(option, -1.0)
        # a little more or less patience is not worth a system call
        if not 0.9 * armed <= timeout_s <= 1.25 * armed:
            whole = max(timeout_s, 0.001)
            seconds = int(whole)
            microseconds = int((whole - seconds) * _MICROSECONDS)
            self._sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(seconds, microseconds))
            self._armed[option] = timeout_s

    def interrupt(self) -> None:
        """Wake a thread that is blocked in receive_into: it sees the end of the stream."""
        self._shut(socket.SHUT_RD)

    def kill(self) -> None:
        """Wake whoever uses the channel: both directions are at their end."""
        self._shut(socket.SHUT_RDWR)

    def finish_sending(self) -> None:
        """Let the peer see the end of the stream after our last word."""
        self._shut(socket.SHUT_WR)

    def _shut(self, how: int) -> None:
        # The plain method also for TLS: SSLSocket.shutdown would drop the encryption under a reading thread.
        with contextlib.suppress(OSError):  # the connection may be gone already
            socket.socket.shutdown(self._sock, how)

    def close(self, *, linger_s: float = 0.0) -> None:
        """Close; with linger_s first wait for the peer to close, so that it can read our last word.

        Closing over unread bytes sends a reset, which may overtake what we just sent.
        """
        if linger_s > 0:
            with contextlib.suppress(OSError):  # TimeoutError too: then we do not wait any longer
                self._await_end(linger_s)
        self._sock.close()

    def _await_end(self, linger_s: float) -> None:
        deadline = time.monotonic() + linger_s
        space = memoryview(bytearray(4096))
        drained = 0
        while drained < _DRAINED_BYTES:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            count = self.receive_into(space, left)
            if count == 0:
                return
            drained += count


def _drop(parts: list[Buffer], count: int) -> None:
    """Drop the first `count` bytes of parts."""
    whole = 0
    while whole < len(parts) and count >= len(parts[whole]):
        count -= len(parts[whole])
        whole += 1
    del parts[:whole]
    if count:
        parts[0] = memoryview(parts[0])[count:]


class TlsChannel(Channel):
    """Be one TLS connection; here Python's time-outs are the only ones OpenSSL understands."""

    _sock: ssl.SSLSocket

    def receive_into(self, space: memoryview, timeout_s: float) -> int:
        """Receive something; 0 at the end of the stream; TimeoutError when nothing came in time."""
        self._sock.settimeout(max(timeout_s, 0.001))
        try:
            return self._sock.recv_into(space)
        except ssl.SSLEOFError:
            return 0  # closed without close_notify; the upper layer knows whether anything is missing

    def receive_all_into(self, space: memoryview, timeout_s: float) -> int:
        """Receive a record: OpenSSL does not wait for more."""
        return self.receive_into(space, timeout_s)

    def receive_now(self, space: memoryview) -> int | None:
        """Receive what is already here, or None."""
        self._sock.settimeout(0.0)
        try:
            return self._sock.recv_into(space)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLEOFError:
            return 0

    def _send_all(self, parts: Sequence[Buffer], timeout_s: float, min_bytes_per_s: float) -> None:
        payload = memoryview(b"".join(parts))
        self._sock.settimeout(timeout_s)
        started = time.monotonic()
        total = 0
        while total < len(payload):
            if time.monotonic() - started > timeout_s + total / min_bytes_per_s:
                raise TimeoutError
            total += self._sock.send(payload[total:])
