"""Lists HL7 messages for people, in and out, newest first, with a cursor instead of an offset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.workflow.reports_port import MessageLine


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Which messages; empty: any."""

    outcome: str = ""
    sender: str = ""
    """MSH-3 of messages in, the destination of messages out."""
    message_type: str = ""
    control_id: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class SentLine:
    """An HL7 message out: a delivery that carries its own bytes."""

    delivery: int
    created_at: datetime
    destination: str
    state: str
    attempt: int
    reason: str | None
    """What the receiver last answered, or why it could not."""
    order_id: int | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class MessageRaw:
    """One message in, whole."""

    line: MessageLine
    raw: bytes
    answer: bytes | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Choices:
    """What there is to filter by."""

    senders: Sequence[str]
    types: Sequence[str]


@dataclass(frozen=True, slots=True)
class FieldPart:
    """One field that has a value, or a problem because it has none."""

    place: str
    """`PID-5`, `OBR[2]-18`."""
    name: str
    """As the standard calls it; empty for fields of the site's own."""
    text: str
    """As sent, cut where it is long."""
    characters: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SegmentPart:
    """One segment."""

    place: str
    """`OBR`, `OBR[2]`."""
    fields: tuple[FieldPart, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """One value a message says, as the mapping in force reads it."""

    level: str
    keyword: str
    value: str
    """Empty: the sender deletes it."""
    source: str


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """What a message says, read now with the mapping in force; nothing was changed by it."""

    values: tuple[Said, ...] = ()
    problems: tuple[Mapping[str, str], ...] = ()
    ignored: str = ""


class MessageBoard(Protocol):
    """Reads HL7 messages for people."""

    def messages_in(
        self, wanted: MessageFilter, *, before: int | None = None, limit: int = 50
    ) -> Sequence[MessageLine]:
        """List messages in, those behind the row `before`."""
        ...

    def message(self, message_id: int) -> MessageRaw:
        """Answer one message in. Raises NotFound."""
        ...

    def messages_out(
        self, wanted: MessageFilter, *, before: int | None = None, limit: int = 50
    ) -> Sequence[SentLine]:
        """List messages out, those behind the delivery `before`."""
        ...

    def sent_message(self, delivery: int) -> tuple[SentLine, bytes]:
        """Answer one message out and its bytes. Raises NotFound."""
        ...

    def message_choices(self) -> Choices:
        """Answer the senders and types there are, at most 50 of each."""
        ...
