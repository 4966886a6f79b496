"""What is kept of devices: who was heard, who knocked in vain, who is admitted for a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from broker.domain.knocks import KnockReason

MOST_KNOCKS = 1000
"""Rows of refusals: whoever knocks under ever new names shares the last row of its address."""
MOST_KNOCKS_OF_ADDRESS = 100
MOST_HEARD = 500
"""AE titles of which is kept what they did last; a listener open to all may be called under any name."""
CONVERSATIONS_KEPT = 20
"""Of each AE title."""
MANY = "*"
"""Stands for AE titles, or addresses, that are too many to be kept one by one."""
SIGNS = ("echo", "list", "exam", "images")


@dataclass(frozen=True, slots=True)
class Admission:
    """A device that is let in for a time."""

    id: int
    ae_title: str
    address: str
    """An address or a network."""
    since: datetime
    until: datetime
    reason: str
    actor: str
    ended_at: datetime | None = None
    ended_by: str | None = None

    def holds(self, now: datetime) -> bool:
        """Tell whether it is in force."""
        return self.ended_at is None and now < self.until


@dataclass(frozen=True, slots=True)
class KnockKey:
    """Who knocked, and why in vain: alike ones are counted in one row."""

    ae_title: str
    """Empty: it was turned away before it said."""
    called_ae_title: str
    address: str
    reason: KnockReason


@dataclass(frozen=True, slots=True)
class Knocks:
    """How often somebody knocked in vain."""

    key: KnockKey
    number: int
    first_at: datetime
    last_at: datetime
    id: int = field(default=0, compare=False)
    """Of its row."""


@dataclass(frozen=True, slots=True)
class Sign:
    """The last time a device did one thing, and what came of it."""

    ae_title: str
    what: str
    """One of SIGNS."""
    at: datetime
    status: int
    """DIMSE status it was answered."""
    detail: str
    address: str

    @property
    def ok(self) -> bool:
        """Tell whether it was done."""
        return is_done(self.status)


def is_done(status: int) -> bool:
    """Tell whether a DIMSE status says that it was done, if with a warning (PS3.7 annex C)."""
    return status in (0x0000, 0x0001, 0x0107, 0x0116) or status >> 12 == 0xB


@dataclass(frozen=True, slots=True)
class Conversation:
    """One association of a device, from its request to its end."""

    ae_title: str
    association: str
    address: str
    implementation: str
    began_at: datetime
    ended_at: datetime
    served: Mapping[str, int]
    """What was asked for, and how often."""
    refused: int
    """Requests answered with a failure."""
    end: str


class Devices(Protocol):
    """Stored admissions, refusals and signs of life."""

    def admit(self, admission: Admission) -> int: ...
    def admission(self, admission: int) -> Admission:
        """Answer one, locked for this transaction. Raises NotFound."""
        ...

    def end(self, admission: int, *, by: str, now: datetime) -> None: ...
    def admitted(self, *, now: datetime) -> list[Admission]:
        """Answer who is let in now, at most 200."""
        ...

    def overdue(self, *, now: datetime) -> list[Admission]:
        """Answer whose time is over although nobody has ended it."""
        ...

    def note_knocks(self, knocks: Sequence[Knocks]) -> list[Knocks]:
        """Add to the rows of refusals; answer those that are new, or were not heard for an hour."""
        ...

    def note_signs(self, signs: Sequence[Sign], *, listed: frozenset[str]) -> None:
        """Keep the newest of each; unknown titles beyond MOST_HEARD are left out, `listed` ones never."""
        ...

    def note_conversations(self, conversations: Sequence[Conversation]) -> None:
        """Keep the last CONVERSATIONS_KEPT of every device that has a sign."""
        ...

    def forget(self, *, before: datetime) -> int:
        """Remove refusals and signs that are older, answer how many."""
        ...
