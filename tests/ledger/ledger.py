"""What was offered to the broker, what it acknowledged, and what it sent on: written down outside of it.

Four books, one JSON line an entry, appended and synced by a process that is never killed with the broker:
`offered` before something is sent, `acknowledged` after the answer came, `received` by the receivers before they
answer, `faults` by whoever breaks something.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMAGE, MESSAGE, STARTED, ENDED = "image", "message", "performed step started", "performed step ended"
"""Kinds: a C-STORE, an HL7 message, an N-CREATE, an N-SET to a final state."""
OFFERED, ACKNOWLEDGED, RECEIVED, FAULTS, REFUSED = "offered", "acknowledged", "received", "faults", "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a book."""

    kind: str
    """What it is; in `received`, the destination."""
    id: str
    """SOP Instance UID, or MSH-10."""
    sha256: str
    """Of the data set, or the message, as its bytes went over the wire."""
    facts: dict[str, Any] = field(default_factory=dict, hash=False)


class Ledger:
    """The books of one run, in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        for book in (OFFERED, ACKNOWLEDGED, RECEIVED, FAULTS, REFUSED):
            self._counts.update((book, entry.kind) for entry in self.entries(book))

    def offered(self, kind: str, key: str, content: bytes, **facts: Any) -> None:
        """Note what is about to be sent; once for every try."""
        self._note(OFFERED, kind, key, content, facts)

    def acked(self, kind: str, key: str, content: bytes, **facts: Any) -> None:
        """Note what was acknowledged: AA, 0000."""
        self._note(ACKNOWLEDGED, kind, key, content, facts)

    def refused(self, kind: str, key: str, content: bytes, **facts: Any) -> None:
        """Note what was answered with a refusal."""
        self._note(REFUSED, kind, key, content, facts)

    def received(self, destination: str, key: str, content: bytes, **facts: Any) -> None:
        """Note what a receiver got, before it answers."""
        self._note(RECEIVED, destination, key, content, facts)

    def crash(self, what: str = "", *, sending: int = 1) -> None:
        """Note that something which may have been sending so many deliveries at once was killed or frozen."""
        self._note(FAULTS, "crash", what, b"", {"sending": sending})

    def ambiguous(self, what: str = "", *, sending: int = 1) -> None:
        """Note that so many deliveries may have lost an answer: a cut connection, a time-out, a lost lease."""
        self._note(FAULTS, "ambiguous", what, b"", {"sending": sending})

    def entries(self, book: str) -> Iterator[Entry]:
        """Read a book."""
        path = self.folder / f"{book}.jsonl"
        if path.exists():
            with path.open() as lines:
                for line in lines:
                    value = json.loads(line)
                    yield Entry(value["kind"], value["id"], value["sha256"], value["facts"])

    def count(self, book: str, *kinds: str) -> int:
        """Count the entries of a book, of some kinds or all; cheap enough to poll."""
        with self._lock:
            counts = self._counts.copy()
        return sum(
            count for (name, kind), count in counts.items() if name == book and kind in (kinds or [kind])
        )

    def interrupted(self) -> int:
        """Answer how many deliveries the faults may have cut off between a peer's answer and our note of it."""
        return sum(int(entry.facts["sending"]) for entry in self.entries(FAULTS))

    def close(self) -> None:
        """Close the books, when nobody writes any more."""
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()

    def _note(self, book: str, kind: str, key: str, content: bytes, facts: dict[str, Any]) -> None:
        value = {
            "at": time.time(),
            "kind": kind,
            "id": key,
            "sha256": hashlib.sha256(content).hexdigest(),
            "facts": facts,
        }
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            descriptor = self._open.get(book)
            if descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                descriptor = self._open[book] = os.open(self.folder / f"{book}.jsonl", flags, 0o640)
            assert os.write(descriptor, line) == len(line)
            self._counts[book, kind] += 1
        if book != OFFERED:  # what was never offered cannot have been acknowledged
            os.fdatasync(descriptor)
