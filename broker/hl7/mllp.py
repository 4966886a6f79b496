"""The minimal lower layer protocol without a socket: bytes go in, frames and faults come out.

HL7 v2 appendix C.4: a block is <0B> payload <1C><0D>. The format has no length and no escape, so every
rule here is about what a sender may get wrong and what is still safe to do then. Nothing in this file
waits or reads a clock; `listener.py` owns both and tells the framer when a pause or the end has come.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

START = b"\x0b"
END = b"\x1c\r"

_SB = 0x0B
_EB = 0x1C
_CR = 0x0D
_LF = 0x0A
_FILLER = b"\r\n \x00"
_OTHER_THAN_START: Final = re.compile(rb"[^\x0b]")


class FramingFault(Enum):
    """Names what was wrong between or inside blocks, with one line of meaning each."""

    GARBAGE = "bytes before a start of block were skipped"
    GARBAGE_FLOOD = "too many bytes before a start of block"
    UNFRAMED = "HL7 text without a start of block; its end cannot be known"
    RESTARTED = "a new block began before the old one ended; the old one was discarded"
    CORRUPT = "an end of block stood inside the data; the block was discarded"
    TOO_LARGE = "the block is larger than this listener accepts"
    TRUNCATED = "the connection ended inside a block; it was discarded"
    TOO_MANY_FAULTS = "too many faults, or empty blocks, without one good block between them"


_CLOSING = frozenset(
    {
        FramingFault.GARBAGE_FLOOD,
        FramingFault.UNFRAMED,
        FramingFault.TOO_LARGE,
        FramingFault.TRUNCATED,
        FramingFault.TOO_MANY_FAULTS,
    }
)


@dataclass(frozen=True, slots=True)
class Frame:
    """Holds the payload of one block; `tidy` is false when its end was not <1C><0D>."""

    payload: bytes
    tidy: bool = True


@dataclass(frozen=True, slots=True)
class FramingError:
    """Says what went wrong; `head` is the start of the lost block, enough to find its MSH."""

    fault: FramingFault
    head: bytes = b""
    skipped_bytes: int = 0

    @property
    def closes(self) -> bool:
        """Tells whether the connection cannot go on after this."""
        return self.fault in _CLOSING


class _At(Enum):
    OUTSIDE = "between blocks"
    INSIDE = "in a payload"
    AFTER_END = "after <1C>, before the byte that confirms it"
    CLOSED = "after a closing fault"


class Framer:
    """Cuts a byte stream into frames; the same bytes give the same result however they are cut."""

    def __init__(
        self,
        *,
        max_message_bytes: int = 8 * 1024 * 1024,
        max_garbage_bytes: int = 64 * 1024,
        max_faults: int = 16,
        max_empty_blocks: int = 10_000,
        head_bytes: int = 4096,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_garbage_bytes = max_garbage_bytes
        self._max_faults = max_faults
        self._max_empty_blocks = max_empty_blocks
        self._head_bytes = min(head_bytes, max_message_bytes)
        self._at = _At.OUTSIDE
        self._payload = bytearray()
        self._skipped_bytes = 0
        self._noise = bytearray()
        self._resyncing = False
        self._faults = 0
        self._empty_in_a_row = 0
        self.empty_blocks = 0

    @property
    def in_block(self) -> bool:
        """Tells whether a block has begun and not ended: its deadline is running."""
        return self._at in (_At.INSIDE, _At.AFTER_END)

    @property
    def awaits_confirmation(self) -> bool:
        """Tells whether <1C> has come and the byte after it has not."""
        return self._at is _At.AFTER_END

    @property
    def buffered_bytes(self) -> int:
        """Give the size of the unfinished block."""
        return len(self._payload)

    @property
    def closed(self) -> bool:
        """Tells whether a closing fault was reported; later bytes are ignored."""
        return self._at is _At.CLOSED

    def feed(self, data: bytes) -> list[Frame | FramingError]:
        """Take the next bytes of the stream and return what they completed."""
        events: list[Frame | FramingError] = []
        position = 0
        end = len(data)
        while position < end and self._at is not _At.CLOSED:
            if self._at is _At.OUTSIDE:
                position = self._read_outside(data, position, events)
            elif self._at is _At.INSIDE:
                position = self._read_inside(data, position, events)
            else:
                position = self._read_after_end(data, position, events)
        return events

    def pause(self) -> list[Frame | FramingError]:
        """Accept a block whose <1C> was followed by silence instead of <0D>."""
        if self._at is not _At.AFTER_END:
            return []
        events: list[Frame | FramingError] = []
        self._at = _At.OUTSIDE
        self._finish(events, tidy=False)
        return events

    def eof(self) -> list[Frame | FramingError]:
        """Report the end of the stream: a begun block is discarded, the sender will resend it."""
        events = self.pause()
        if self._at is _At.INSIDE:
            self._report(FramingFault.TRUNCATED, events, head=self._head())
        self._at = _At.CLOSED
        self._payload.clear()
        return events

    def _read_outside(self, data: bytes, position: int, events: list[Frame | FramingError]) -> int:
        start = data.find(_SB, position)
        stop = len(data) if start < 0 else start
        if stop > position and not self._skip(data[position:stop], events):
            return len(data)
        if start < 0:
            return stop
        if self._noise and not self._resyncing:
            self._report(FramingFault.GARBAGE, events, skipped_bytes=self._skipped_bytes)
        self._noise.clear()
        self._resyncing = False
        if self._at is not _At.CLOSED:
            self._at = _At.INSIDE
        return start + 1

    def _skip(self, run: bytes, events: list[Frame | FramingError]) -> bool:
        """Count bytes between blocks; false when the connection must close over them."""
        # Only the bytes up to the limit are looked at, so that one large read and many small ones agree.
        run = run[: self._max_garbage_bytes - self._skipped_bytes + 1]
        self._skipped_bytes += len(run)
        room = 64 - len(self._noise)
        if room > 0:
            self._noise += (run if self._noise else run.lstrip(_FILLER))[:room]
        if self._noise.startswith(b"MSH") and not self._resyncing:
            self._report(FramingFault.UNFRAMED, events)
            return False
        if self._skipped_bytes > self._max_garbage_bytes:
            self._report(FramingFault.GARBAGE_FLOOD, events, skipped_bytes=self._skipped_bytes)
            return False
        return True

    def _read_inside(self, data: bytes, position: int, events: list[Frame | FramingError]) -> int:
        # The next start bounds the search for the end: whatever is sent, no byte is looked at twice.
        restart = data.find(_SB, position)
        stop = len(data) if restart < 0 else restart
        end = data.find(_EB, position, stop)
        if end >= 0:
            stop, restart = end, -1
        if len(self._payload) + stop - position > self._max_message_bytes:
            self._payload += data[position : position + self._head_bytes]
            self._report(FramingFault.TOO_LARGE, events, head=self._head())
            return len(data)
        self._payload += data[position:stop]
        if restart >= 0:
            if self._payload:
                self._report(FramingFault.RESTARTED, events)
            self._payload.clear()
            other = _OTHER_THAN_START.search(data, restart)
            return len(data) if other is None else other.start()
        if end < 0:
            return stop
        self._at = _At.AFTER_END
        return end + 1

    def _read_after_end(self, data: bytes, position: int, events: list[Frame | FramingError]) -> int:
        following = data[position]
        if following == _SB:
            self._at = _At.INSIDE
            self._finish(events, tidy=False)
        elif following in (_CR, _LF):
            self._at = _At.OUTSIDE
            self._finish(events, tidy=following == _CR)
        else:
            # Payload cannot hold <1C>: these bytes are damaged. Guessing the end of an order is worse
            # than asking for it again.
            head = self._head()
            self._payload.clear()
            self._at = _At.OUTSIDE
            self._resyncing = True
            self._report(FramingFault.CORRUPT, events, head=head)
            return position
        return position + 1

    def _finish(self, events: list[Frame | FramingError], *, tidy: bool) -> None:
        if self._payload:
            events.append(Frame(bytes(self._payload), tidy))
            self._payload.clear()
            self._skipped_bytes = 0
            self._faults = 0
            self._empty_in_a_row = 0
            return
        self.empty_blocks += 1
        self._empty_in_a_row += 1
        if self._empty_in_a_row >= self._max_empty_blocks:
            self._report(FramingFault.TOO_MANY_FAULTS, events)

    def _head(self) -> bytes:
        return bytes(self._payload[: self._head_bytes])

    def _report(
        self,
        fault: FramingFault,
        events: list[Frame | FramingError],
        *,
        head: bytes = b"",
        skipped_bytes: int = 0,
    ) -> None:
        error = FramingError(fault, head, skipped_bytes)
        events.append(error)
        self._faults += 1
        if not error.closes and self._faults >= self._max_faults:
            error = FramingError(FramingFault.TOO_MANY_FAULTS)
            events.append(error)
        if error.closes:
            self._at = _At.CLOSED
            self._payload.clear()


def frame(payload: bytes) -> bytes:
    """Wrap one message for the wire."""
    return START + payload + END
