"""Remembers worklist queries for the timeline, off the path that answers them.

A query is kept in memory and written with others in one transaction a moment later. A crash loses the last
second of this record, and nothing else: no query waits for a disk.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from broker.domain.events import Event, EventName, Subject
from broker.errors import BrokerError
from broker.workflow.unit_of_work import UnitsOfWork

log = structlog.get_logger(__name__)


class QueryRecord(NamedTuple):
    """Describes one answered query; without its identifier nothing in it is of a patient."""

    calling_ae_title: str
    association_id: str
    keys: tuple[str, ...]
    """The keys that had a value."""
    ignored: tuple[str, ...]
    status: int
    answers: int
    steps: tuple[int, ...]
    """The first steps answered."""
    duration_ms: float
    cut_at: int | None = None
    """Where the device's profile cut the answer."""
    identifier: bytes = b""
    """As it came; kept only where audit messages are sent, which must tell it."""
    transfer_syntax: str = ""


class QueryLog:
    """Writes queries as events, in batches, from a thread of its own."""

    def __init__(
        self,
        units_of_work: UnitsOfWork,
        *,
        interval_s: float = 1.0,
        max_waiting: int = 10_000,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        answered: Callable[[str, int], None] | None = None,
        keeps_identifiers: bool = False,
    ) -> None:
        """Write nothing before `start`; `answered` is told association and number of answers at once.

        `keeps_identifiers`: queries are written down with what they asked for.
        """
        self.keeps_identifiers = keeps_identifiers
        self._units_of_work = units_of_work
        self._now = now
        self._answered = answered
        self._interval_s = interval_s
        self._waiting: deque[tuple[datetime, QueryRecord]] = deque(maxlen=max_waiting)
        self._stopping = threading.Event()
        self._something = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start writing."""
        self._thread = threading.Thread(target=self._run, name="query-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and stop."""
        self._stopping.set()
        self._something.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        self.flush()

    def record(self, record: QueryRecord) -> None:
        """Keep a query to be written; never blocks. When nothing can be written, the oldest are dropped."""
        if self._answered is not None:
            self._answered(record.association_id, record.answers)
        self._waiting.append((self._now(), record))
        if not self._something.is_set():
            self._something.set()

    def flush(self) -> int:
        """Write what waits, answer how many that were."""
        records: list[tuple[datetime, QueryRecord]] = []
        while self._waiting:
            records.append(self._waiting.popleft())
        if not records:
            return 0
        try:
            with self._units_of_work() as uow:
                for at, record in records:
                    uow.record(_event(at, record))
                uow.commit()
        except BrokerError as error:
            log.warning("queries not recorded", queries=len(records), error=type(error).__name__)
            return 0
        return len(records)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._something.wait()
            self._something.clear()
            # Others will ask within the same moment: one transaction for all of them.
            self._stopping.wait(self._interval_s)
            self.flush()


def _event(at: datetime, record: QueryRecord) -> Event:
    details: dict[str, str | int | float | bool | list[str] | None] = {
        "asked_at": at.isoformat(),  # the event itself is written a moment later
        "association": record.association_id,
        "keys": list(record.keys),
        "status": f"{record.status:04X}",
        "answers": record.answers,
        "steps": [str(step) for step in record.steps],
        "duration_ms": round(record.duration_ms, 3),
    }
    if record.ignored:
        details["ignored"] = list(record.ignored)
    if record.cut_at is not None:
        details["cut_at"] = record.cut_at
    if record.identifier:
        details["identifier"] = b64encode(record.identifier).decode()
        details["transfer_syntax"] = record.transfer_syntax
    return Event(EventName.WORKLIST_QUERIED, Subject.DEVICE, actor=record.calling_ae_title, details=details)
