"""What the listener and whoever handles its messages tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """Holds one message as it came off the wire."""

    peer: str
    payload: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """Holds what goes back for one message: none, one or two acknowledgements, and whether to hang up.

    Hanging up without an acknowledgement is how a sender learns that we could not keep its message: it
    sends again.
    """

    messages: tuple[bytes, ...] = ()
    close: bool = False
    junk: bool = False
    """The block was no message: nobody can be answered, and a peer that sends nothing else is hung up on."""


HANG_UP = Answer(close=True)
JUNK = Answer(junk=True)


class MessageHandler(Protocol):
    """Makes messages durable and answers them."""

    def handle_batch(self, messages: Sequence[InboundMessage]) -> list[Answer]:
        """Handle messages in order and answer each; whatever is acknowledged is committed."""
        ...

    def refuse(self, head: bytes, reason: str) -> bytes | None:
        """Write a rejection for a block that was lost, if enough of it came to know whom to answer."""
        ...
