"""What the use cases need of inbound HL7 messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol


class MessageOutcome(Enum):
    """What became of an inbound HL7 message."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    PARKED = "parked"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """An inbound HL7 message as kept."""

    id: int
    received_at: datetime
    peer: str
    sending_application: str
    sending_facility: str
    message_control_id: str
    message_type: str
    content_sha256: bytes
    raw: bytes
    outcome: MessageOutcome
    acknowledgement_code: str | None
    answer: bytes | None
    problems: tuple[Mapping[str, str], ...] = ()
    order: int | None = None
    attempts: int = 1


class Messages(Protocol):
    """Inbound HL7 messages."""

    def find(
        self, sending_application: str, sending_facility: str, message_control_id: str
    ) -> list[StoredMessage]:
        """Find the messages with this key, newest first."""
        ...

    def reserve(self) -> int:
        """Answer an id for a new message, so that what it brings about can name it before it is stored."""
        ...

    def add(self, message: StoredMessage) -> StoredMessage:
        """Store a new message under the id reserved for it, or under one of its own when it has none (0)."""
        ...

    def save(self, message: StoredMessage) -> None: ...
    def get(self, message: int) -> StoredMessage: ...
