"""Let a capture listen in on one connection. Whatever becomes of the capture, the association goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog

from broker.dicom.network.channel import Buffer, Channel, PeerDoesNotRead
from broker.workflow.capture_taps import Tap

log = structlog.get_logger(__name__)

_ASSOCIATE_RQ: Final = 0x01
_CALLING_AE_TITLE: Final = slice(26, 42)
"""In an A-ASSOCIATE-RQ with its header (PS3.8 9.3.2)."""


class TappedChannel(Channel):
    """Be a channel, plain or TLS, whose bytes a capture hears: of TLS what is said inside it."""

    def __init__(self, channel: Channel, tap: Tap) -> None:
        self._channel = channel
        self._tap: Tap | None = tap
        self._head: bytearray | None = bytearray()  # until it is known who calls
        self._peer_ended = self._we_ended = self._is_deaf = False

    def receive_into(self, space: memoryview, timeout_s: float) -> int:
        """Receive something; 0 at the end of the stream; TimeoutError when nothing came in time."""
        with self._watched():
            count = self._channel.receive_into(space, timeout_s)
        self._received(space, count)
        return count

    def receive_all_into(self, space: memoryview, timeout_s: float) -> int:
        """Receive until the space is full; less only when the time is up or the stream ends."""
        with self._watched():
            count = self._channel.receive_all_into(space, timeout_s)
        self._received(space, count)
        return count

    def receive_now(self, space: memoryview) -> int | None:
        """Receive what is already here, or None."""
        with self._watched():
            count = self._channel.receive_now(space)
        if count is not None:
            self._received(space, count)
        return count

    def send(self, parts: Sequence[Buffer], *, timeout_s: float, min_bytes_per_s: float) -> None:
        """Send all parts, or raise PeerDoesNotRead when the peer does not take them at the least rate."""
        said = b"".join(parts)  # now: a part may be a buffer that is used again
        with self._watched():
            self._channel.send(parts, timeout_s=timeout_s, min_bytes_per_s=min_bytes_per_s)
        self._tell(lambda tap: tap.sent(said))

    def interrupt(self) -> None:
        """Wake a thread that is blocked in receive_into: it sees the end of the stream."""
        self._peer_ended = True  # what looks like the peer's end is ours
        self._channel.interrupt()

    def kill(self) -> None:
        """Wake whoever uses the channel: both directions are at their end."""
        self._peer_ended = True
        self._channel.kill()

    def finish_sending(self) -> None:
        """Let the peer see the end of the stream after our last word."""
        self._channel.finish_sending()
        self._end(by_peer=False)

    def has_ended(self) -> bool:
        """Tell, without waiting, whether the peer closed."""
        ended = self._channel.has_ended()
        if ended:
            self._end(by_peer=True)
        return ended

    def close(self) -> None:
        """Close."""
        self._channel.close()
        self._end(by_peer=False, reset=self._is_deaf)

    # ── what the capture hears ──────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """See how a connection breaks."""
        try:
            yield
        except PeerDoesNotRead:
            self._is_deaf = True
            raise
        except ConnectionError:
            self._end(by_peer=True, reset=True)
            raise

    def _received(self, space: memoryview, count: int) -> None:
        if not count:
            self._end(by_peer=True)
            return
        data = bytes(space[:count])
        if self._head is not None:
            self._head += data[: _CALLING_AE_TITLE.stop]
            if self._head[0] != _ASSOCIATE_RQ:
                self._name("")
            elif len(self._head) >= _CALLING_AE_TITLE.stop:
                self._name(bytes(self._head[_CALLING_AE_TITLE]).decode("latin-1").strip(" \x00"))
        self._tell(lambda tap: tap.received(data))

    def _name(self, name: str) -> None:
        self._head = None
        self._tell(lambda tap: tap.named(name))

    def _end(self, *, by_peer: bool, reset: bool = False) -> None:
        if self._peer_ended if by_peer else self._we_ended:
            return
        if by_peer:
            self._peer_ended = True
        else:
            self._we_ended = True
        if reset:
            self._peer_ended = self._we_ended = True
        self._tell(lambda tap: tap.ended(by_peer=by_peer, reset=reset))

    def _tell(self, what: Callable[[Tap], None]) -> None:
        if self._tap is None:
            return
        try:
            what(self._tap)
        except Exception as error:  # a fault of the capture is none of the association
            self._tap = None
            log.error("capture given up for an association", error=type(error).__name__)
