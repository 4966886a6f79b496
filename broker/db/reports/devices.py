"""Lists devices: what each did last, who knocked in vain, who is let in for a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, select, tuple_

from broker.db.reports.reading import mappings
from broker.db.reports.sources import SourceReports
from broker.db.reports.worklist import WorklistReports
from broker.db.repositories.devices import MOST_ADMITTED, admission_of, knocks_of
from broker.db.schema import ADMISSION, CONVERSATION, KNOCK, PERFORMED, SIGN
from broker.workflow.device_reports import HeardDevice, StartTime
from broker.workflow.devices_port import (
    CONVERSATIONS_KEPT,
    MOST_HEARD,
    SIGNS,
    Admission,
    Conversation,
    Knocks,
    Sign,
)
from broker.workflow.probe_port import PROBE
from broker.workflow.reports_port import WorklistLine

_EXAMS_LOOKED_AT = 20
_NEXT_TITLE = select(func.min(PERFORMED.c.calling_ae_title)).where(
    PERFORMED.c.calling_ae_title > bindparam("after")
)
_NEWEST_EXAMS = (
    select(PERFORMED.c.started_at, PERFORMED.c.created_at)
    .where(PERFORMED.c.calling_ae_title == bindparam("title"), PERFORMED.c.started_at.is_not(None))
    .order_by(PERFORMED.c.id.desc())
    .limit(_EXAMS_LOOKED_AT)
)


class SqlDeviceReports(WorklistReports, SourceReports):
    """Implements DeviceReports."""

    def heard_devices(self) -> Mapping[str, HeardDevice]:
        """Answer what every AE title did last, with its rhythm."""
        names = ("ae_title", "what", "at", "status", "detail", "address")
        with self._reading() as connection:
            rows = mappings(connection, select(SIGN).limit((MOST_HEARD + 500) * len(SIGNS)))
        signs: dict[str, dict[str, Sign]] = {}
        for row in rows:
            signs.setdefault(row["ae_title"], {})[row["what"]] = Sign(**{name: row[name] for name in names})
        sources = {line.name: line for line in self.sources() if line.kind == "device" and line.name}
        found = {}
        for title in {*signs, *sources} - {PROBE}:
            its, source = signs.get(title, {}), sources.get(title)
            last: list[datetime] = [sign.at for sign in its.values()]
            if source is not None:
                last.append(source.last_at)
            found[title] = HeardDevice(its, source.rhythm if source else None, max(last, default=None))
        return found

    def knocks(
        self, *, ae_title: str | None = None, before: int | None = None, limit: int = 200
    ) -> Sequence[Knocks]:
        """Answer who knocked in vain, the newest first; `before` is the id of the last one seen."""
        statement = select(KNOCK).order_by(KNOCK.c.last_at.desc(), KNOCK.c.id.desc()).limit(limit)
        if ae_title is not None:
            statement = statement.where(KNOCK.c.ae_title == ae_title)
        if before is not None:
            place = (KNOCK.c.last_at, KNOCK.c.id)
            with self._reading() as connection:
                last = connection.execute(select(*place).where(KNOCK.c.id == before)).one_or_none()
            if last is None:
                return []
            statement = statement.where(tuple_(*place) < tuple_(*last))
        with self._reading() as connection:
            return [knocks_of(row) for row in mappings(connection, statement)]

    def admitted(self, *, now: datetime) -> Sequence[Admission]:
        """Answer who is let in now; every listener asks once a second."""
        statement = select(ADMISSION).where(ADMISSION.c.ended_at.is_(None), ADMISSION.c.until > now)
        with self._reading() as connection:
            rows = mappings(connection, statement.order_by(ADMISSION.c.until.desc()).limit(MOST_ADMITTED))
        return [admission_of(row) for row in rows]

    def admissions(
        self, *, ae_title: str | None = None, before: int | None = None, limit: int = 50
    ) -> Sequence[Admission]:
        """Answer who was let in for a time, the newest first; `before` is the id of the last one seen."""
        statement = select(ADMISSION).order_by(ADMISSION.c.id.desc()).limit(limit)
        if ae_title is not None:
            statement = statement.where(ADMISSION.c.ae_title == ae_title)
        if before is not None:
            statement = statement.where(ADMISSION.c.id < before)
        with self._reading() as connection:
            return [admission_of(row) for row in mappings(connection, statement)]

    def conversations(self, ae_title: str) -> Sequence[Conversation]:
        """Answer the last associations of a device, the newest first."""
        statement = select(CONVERSATION).where(CONVERSATION.c.ae_title == ae_title)
        statement = statement.order_by(CONVERSATION.c.id.desc()).limit(CONVERSATIONS_KEPT)
        names = Conversation.__slots__
        with self._reading() as connection:
            rows = mappings(connection, statement)
        return [Conversation(**{name: row[name] for name in names}) for row in rows]

    def exam_starts(self, ae_titles: Sequence[str]) -> Mapping[str, Sequence[StartTime]]:
        """Answer the newest exams of devices as their own clocks dated them."""
        asked, found = frozenset(ae_titles), dict[str, list[StartTime]]()
        with self._reading() as connection:
            for title in _titles_with_exams(connection):
                if title in asked:
                    rows = connection.execute(_NEWEST_EXAMS, {"title": title})
                    found[title] = [StartTime(row.started_at, row.created_at) for row in rows]
        return found

    def worklist_steps(self, steps: Sequence[int]) -> Sequence[WorklistLine]:
        """Answer these steps, in this order."""
        lines = {line.step: line for line in self.steps_with(steps)}
        return [lines[step] for step in steps if step in lines]


def _titles_with_exams(connection: Connection) -> Iterator[str]:
    """Hop from title to title in the index: most devices that are heard send no exams."""
    after: str | None = ""
    for _ in range(MOST_HEARD):
        after = connection.execute(_NEXT_TITLE, {"after": after}).scalar_one()
        if after is None:
            return
        yield after
