"""Who looked at what: every view of patient data is an event of the hash-chained trail before it is shown."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from broker.domain.events import Event, EventName, Subject
from broker.workflow.accounts import Caller
from broker.workflow.audit_port import AuditQuestion
from broker.workflow.clock import Clock
from broker.workflow.unit_of_work import UnitsOfWork

OPENED_AGAIN = timedelta(minutes=1)
LISTED_AGAIN = timedelta(minutes=10)
"""Within these the same person's look at the same object is one view: pages renew themselves."""
_MAX_REMEMBERED = 50_000


@dataclass(frozen=True, slots=True)
class Shown:
    """An object whose patient data somebody was shown; ids only."""

    subject: Subject
    subject_id: int | None = None
    study_instance_uid: str | None = None
    order: int | None = None


class Audit:
    """Writes who looked at what; the search is `AuditReports`."""

    def __init__(self, units_of_work: UnitsOfWork, clock: Clock) -> None:
        self._units_of_work = units_of_work
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: OrderedDict[tuple[object, ...], datetime] = OrderedDict()

    def viewed(
        self, by: Caller, shown: Iterable[Shown], *, page: str, listed: bool = False, searched: str = ""
    ) -> None:
        """Write down that somebody was shown objects, and what they searched for. Raises DatabaseUnavailable.

        `page` is the page's path without ids; `listed` says that the objects were rows of a list.
        """
        now = self._clock.now()
        window = LISTED_AGAIN if listed else OPENED_AGAIN
        who = (by.name, by.address)
        # A row of a list tells less than the object's own page: who goes on from one to the other has looked twice.
        news = [item for item in dict.fromkeys(shown) if self._is_new((*who, item, listed), now, window)]
        asks = bool(searched) and self._is_new((*who, searched), now, OPENED_AGAIN)
        if not news and not asks:
            return
        try:
            self._write(by, news, page=page, listed=listed, searched=searched if asks else "")
        except BaseException:
            with self._lock:
                for item in news:
                    self._recent.pop((*who, item, listed), None)
                self._recent.pop((*who, searched), None)
            raise

    def downloaded(self, by: Caller, question: AuditQuestion, *, events: int) -> None:
        """Write down that somebody took a part of the trail away as a file. Raises DatabaseUnavailable."""
        details: dict[str, str | int | float | bool | list[str] | None] = {
            "address": by.address,
            "events": events,
        }
        details |= {name: str(value) for name, value in asdict(question).items() if value}
        with self._units_of_work() as uow:
            uow.record(Event(EventName.AUDIT_DOWNLOADED, Subject.SYSTEM, actor=by.name, details=details))
            uow.commit()

    def read(self, by: Caller, *, how: str, asked: str = "") -> None:
        """Write down that somebody read or verified the trail itself. Raises DatabaseUnavailable."""
        key = (by.name, by.address, f"{how} {asked}")
        if not self._is_new(key, self._clock.now(), OPENED_AGAIN):
            return
        details = {"address": by.address, "how": how, "asked": asked[:200]}
        try:
            with self._units_of_work() as uow:
                uow.record(Event(EventName.AUDIT_READ, Subject.SYSTEM, actor=by.name, details=details))
                uow.commit()
        except BaseException:
            with self._lock:
                self._recent.pop(key, None)
            raise

    def _write(self, by: Caller, news: list[Shown], *, page: str, listed: bool, searched: str) -> None:
        with self._units_of_work() as uow:
            if searched:
                details: dict[str, str | int | float | bool | list[str] | None] = {
                    "address": by.address,
                    "page": page,
                    "text": searched[:200],
                }
                uow.record(Event(EventName.SEARCHED, Subject.SYSTEM, actor=by.name, details=details))
            for item in news:
                uow.record(
                    Event(
                        EventName.VIEWED,
                        item.subject,
                        item.subject_id,
                        item.study_instance_uid,
                        item.order,
                        actor=by.name,
                        details={
                            "address": by.address,
                            "page": page,
                            "how": "listed" if listed else "opened",
                        },
                    )
                )
            uow.commit()

    def _is_new(self, key: tuple[object, ...], now: datetime, window: timedelta) -> bool:
        with self._lock:
            before = self._recent.get(key)
            if before is not None and now - before < window:
                return False
            self._recent.pop(key, None)
            self._recent[key] = now
            while len(self._recent) > _MAX_REMEMBERED:
                self._recent.popitem(last=False)
            return True
