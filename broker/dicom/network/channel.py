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
_MAX_DROPPED_BYTES: Final = 1024 * 1024
_DROPPED: Final = bytearray(4096)
"""Where bytes go that nobody wants; all threads may write here at once."""


class PeerDoesNotRead(TimeoutError):
    """The peer does not take what we send: nothing more can be said to it."""


class Channel:
    """Be one plain TCP connection.

    Deadlines are SO_RCVTIMEO and SO_SNDTIMEO: one system call per read, where Python's own time-outs take two.
    """

    def __init__(
        self, sock: socket.socket, *, receive_timeout_s: float = -1.0, send_timeout_s: float = -1.0
    ) -> None:
        """Take a connected socket, and the deadlines it already has: of a listener that had them."""
        self._sock = sock
        self._receive_s = receive_timeout_s
        self._send_s = send_timeout_s
        self._dropped = 0

    def receive_into(self, space: memoryview, timeout_s: float) -> int:
        """Receive something; 0 at the end of the stream; TimeoutError when nothing came in time."""
        # a little more or less patience is not worth a system call
        if not 0.9 * self._receive_s <= timeout_s <= 1.25 * self._receive_s:
            set_timeout(self._sock, socket.SO_RCVTIMEO, timeout_s)
            self._receive_s = timeout_s
        try:
            return self._sock.recv_into(space)
        except BlockingIOError:
            raise TimeoutError from None

    def receive_all_into(self, space: memoryview, timeout_s: float) -> int:
        """Receive until the space is full; less only when the time is up or the stream ends."""
        if not 0.9 * self._receive_s <= timeout_s <= 1.25 * self._receive_s:
            set_timeout(self._sock, socket.SO_RCVTIMEO, timeout_s)
            self._receive_s = timeout_s
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
        if self._send_s != timeout_s:
            set_timeout(self._sock, socket.SO_SNDTIMEO, timeout_s)
            self._send_s = timeout_s
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

    def has_ended(self) -> bool:
        """Tell, without waiting, whether the peer closed; what it still sent is dropped.

        A peer that goes on sending after everything was said is as good as gone.
        """
        try:
            while count := socket.socket.recv_into(self._sock, _DROPPED, 0, socket.MSG_DONTWAIT):
                self._dropped += count
                if self._dropped > _MAX_DROPPED_BYTES:
                    break
        except BlockingIOError:
            return False
        except OSError:  # reset
            return True
        return True

    def close(self) -> None:
        """Close."""
        self._sock.close()


def set_timeout(sock: socket.socket, option: int, timeout_s: float) -> None:
    """Set SO_RCVTIMEO or SO_SNDTIMEO."""
    whole = max(timeout_s, 0.001)
    seconds = int(whole)
    microseconds = int((whole - seconds) * _MICROSECONDS)
    sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(seconds, microseconds))


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

    def has_ended(self) -> bool:
        """Tell, without waiting, whether the peer closed; what it still sent is not decrypted."""
        try:
            self._sock.settimeout(0.0)
        except OSError:  # closed already
            return True
        return super().has_ended()

    def _send_all(self, parts: Sequence[Buffer], timeout_s: float, min_bytes_per_s: float) -> None:
        payload = memoryview(b"".join(parts))
        self._sock.settimeout(timeout_s)
        started = time.monotonic()
        total = 0
        while total < len(payload):
            if time.monotonic() - started > timeout_s + total / min_bytes_per_s:
                raise TimeoutError
            total += self._sock.send(payload[total:])
