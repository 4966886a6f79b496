"""What the use cases need of requests that somebody may send twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered."""

    status: int
    body: str
    location: str | None = None
    shown: Sequence[Mapping[str, Any]] = ()
    """Of whom it told: whoever is answered so again is shown them again."""


class IdempotencyKeys(Protocol):
    """Keys of requests that somebody may send twice."""

    def take(self, key: str, fingerprint: str, *, now: datetime, expires_at: datetime) -> bool:
        """Take a key in this transaction; False when the same request took it before.

        Raises Conflict when another request did.
        """
        ...

    def give_back(self, key: str) -> None:
        """Remove a key: what it was taken for has been refused."""
        ...

    def note(self, key: str, subject: int) -> None:
        """Keep the row that was made under a key."""
        ...

    def subject(self, key: str) -> int | None: ...
    def remember(self, key: str, answer: Answer) -> None:
        """Keep what the request of a key was answered, if the key was taken."""
        ...

    def answer(self, key: str, fingerprint: str, *, now: datetime) -> Answer | None:
        """Tell what the same request was answered before. Raises Conflict when another one took the key."""
        ...

    def forget(self, *, now: datetime) -> int:
        """Remove keys that have expired, answer how many."""
        ...
