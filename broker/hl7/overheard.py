"""Lets a capture listen in on one connection: tells it whose message a byte belongs to, by MSH-3 of each block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from broker.hl7.mllp import START
from broker.workflow.capture_taps import Tap

_MOST_HEADER_BYTES: Final = 2048
"""Within these MSH-3 comes, or never."""

log = structlog.get_logger(__name__)


class Overheard:
    """Hands on what is said. Whatever becomes of the capture, the connection goes on."""

    def __init__(self, tap: Tap) -> None:
        self.tap: Tap | None = tap
        self._header: bytearray | None = None  # of a block of which it is not known yet who sent it
        self._name = ""
        self._ended = [False, False]

    def received(self, data: bytes) -> None:
        """Take what the peer said; each block may be of another sender."""
        before, *blocks = data.split(START)
        if before:
            self._hear(before)
        for block in blocks:
            self._tell(lambda tap: tap.unnamed())
            self._header = bytearray()
            self._hear(START + block)

    def sent(self, data: bytes) -> None:
        """Take what we answered: it belongs to the message before."""
        self._tell(lambda tap: tap.sent(data))

    def ended(self, *, by_peer: bool, reset: bool = False) -> None:
        """Take the end of one direction, once."""
        if not self._ended[by_peer]:
            self._ended[by_peer] = True
            if reset:
                self._ended = [True, True]
            self._tell(lambda tap: tap.ended(by_peer=by_peer, reset=reset))

    def closed(self, error: Exception | None) -> None:
        """Take the end of all: with an error the peer reset the connection."""
        self.ended(by_peer=error is not None, reset=error is not None)

    def _hear(self, piece: bytes) -> None:
        if self._header is not None:
            self._header += piece[:_MOST_HEADER_BYTES]
            name = sending_application(bytes(self._header), otherwise=self._name)
            if name is None and len(self._header) >= _MOST_HEADER_BYTES:
                name = ""
            if name is not None:
                self._header, self._name = None, name
                self._tell(lambda tap: tap.named(name))
        self._tell(lambda tap: tap.received(piece))

    def _tell(self, what: Callable[[Tap], None]) -> None:
        if self.tap is None:
            return
        try:
            what(self.tap)
        except Exception as error:  # a fault of the capture is none of the sender
            self.tap = None
            log.error("capture given up for a connection", error=type(error).__name__)


def sending_application(block: bytes, *, otherwise: str = "") -> str | None:
    """Answer the first component of MSH-3 of a block that begins; None: it has not come yet; empty: there is none.

    What does not begin with MSH is a block broken in two, or a batch: it is of whoever spoke before.
    """
    text = block.removeprefix(START)
    if not b"MSH".startswith(text[:3]):
        return otherwise
    separator = text[3:4]
    fields = text.split(separator, 3) if separator else []
    if len(fields) < 4:
        return "" if b"\r" in text else None
    component = fields[1][:1]
    name = fields[2].split(component, 1)[0] if component else fields[2]
    return name.decode("utf-8", "replace").strip()
