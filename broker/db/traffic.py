"""Counts who was heard in which hour, from the rows of what came, and learns from it what is usual.

The sweeper does this a minute behind, so that it costs those who receive nothing. Who counts moves a mark in the same
transaction; of two sweepers the slower finds the mark moved and leaves it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    Table,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from broker.db.engine import reading
from broker.db.schema import EVENT, INSTANCE, MEASUREMENT, MESSAGE, TRAFFIC_HOUR, TRAFFIC_MARK, TRAFFIC_SOURCE
from broker.db.transaction import Transaction
from broker.domain.events import EventName
from broker.domain.rhythm import HISTORY, HeardHour, Rhythm, learn
from broker.workflow.probe_port import PROBE

LAG = timedelta(minutes=1)
"""What was received is committed by then; what was not would be missing in a count, and nowhere else."""
STEP = timedelta(hours=6)
MAX_STEPS = 20
MAX_SOURCES = 500
"""Of each kind: names come from peers, and somebody may send under a new one every time."""
MAX_LEARNT = 100
IMAGE_BYTES = "image bytes"

_NEVER, _NOT_YET = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
Source = tuple[str, str, str]
"""Name, facility, host."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows that show that somebody was heard."""

    what: str
    table: Table
    at: ColumnElement[datetime]
    name: ColumnElement[str]
    facility: ColumnElement[str] = field(default_factory=lambda: literal(""))
    peer: ColumnElement[str] = field(default_factory=lambda: literal(""))
    only: tuple[ColumnElement[bool], ...] = ()
    bytes: ColumnElement[int] = field(default_factory=lambda: literal(0))

    def where(self, *conditions: ColumnElement[bool]) -> Select[str, str, str, datetime, int]:
        """Select who was heard, when, and how many bytes that were."""
        columns: Select[str, str, str, datetime, int] = (
            select(
                self.name.label("name"),
                self.facility.label("facility"),
                self.peer.label("peer"),
                self.at.label("at"),
                self.bytes.label("bytes"),
            )
            .select_from(self.table)
            .where(*self.only, *conditions)
        )
        return columns


def _events(what: str, *names: EventName) -> list[Stream]:
    return [
        Stream(
            what, EVENT, EVENT.c.at, EVENT.c.actor, only=(EVENT.c.name == name.value, EVENT.c.actor != PROBE)
        )
        for name in names
    ]


STREAMS: Mapping[str, Sequence[Stream]] = {
    "sender": [
        Stream(
            "message",
            MESSAGE,
            MESSAGE.c.received_at,
            MESSAGE.c.sending_application,
            MESSAGE.c.sending_facility,
            MESSAGE.c.peer,
            only=(MESSAGE.c.sending_application != PROBE,),
        )
    ],
    "device": [
        Stream(
            "images",
            INSTANCE,
            INSTANCE.c.received_at,
            INSTANCE.c.calling_ae_title,
            only=(INSTANCE.c.calling_ae_title != PROBE,),
            bytes=INSTANCE.c.size_bytes,
        ),
        *_events("list", EventName.WORKLIST_QUERIED),
        *_events("exam", EventName.MPPS_CREATED, EventName.MPPS_UPDATED, EventName.MPPS_FINISHED),
    ],
}


@dataclass(slots=True)
class _Heard:
    """What was heard of one source in a span."""

    items: Counter[str] = field(default_factory=Counter)
    """By minute, `YYYY-MM-DD HH:MM`."""
    bytes: Counter[str] = field(default_factory=Counter)
    """By hour, `YYYY-MM-DD HH`."""
    last_at: datetime = _NEVER
    first_at: datetime = _NOT_YET
    last_what: str = ""

    def hours(self) -> Iterator[Mapping[str, Any]]:
        """Answer what an hour's row adds."""
        items: Counter[str] = Counter()
        minutes: Counter[str] = Counter()
        for minute, number in self.items.items():
            items[minute[:13]] += number
            minutes[minute[:13]] += 1
        for hour, number in items.items():
            yield {
                "hour": datetime.strptime(hour, "%Y-%m-%d %H").replace(tzinfo=UTC),
                "items": number,
                "minutes": minutes[hour],
                "bytes": self.bytes[hour],
            }


def count_traffic(engine: Engine, *, now: datetime) -> int:
    """Count what has come since the last time, answer in how many steps. Raises DatabaseUnavailable."""
    until = (now - LAG).replace(second=0, microsecond=0)
    return sum(_count_kind(engine, kind, until=until) for kind in STREAMS)


def _count_kind(engine: Engine, kind: str, *, until: datetime) -> int:
    for step in range(MAX_STEPS):
        with reading(engine) as connection:
            mark = mark_of(connection, kind)
            first = _next_at(connection, kind, mark or until - HISTORY, until)
            # Nothing is read twice; spans in which nobody was heard are hopped over.
            start = until if first is None else max(first.replace(second=0, microsecond=0), mark or first)
            end = min(start + STEP, until)
            heard = _heard(connection, kind, start, end) if start < end else {}
        if mark is not None and end <= mark:
            return step
        with closing(Transaction(engine)) as transaction:
            if not _move_mark(transaction, kind, mark, end):
                return step
            _store(transaction, kind, heard)
            transaction.commit()
        if end == until:
            return step + 1
    return MAX_STEPS


def mark_of(connection: Connection, kind: str) -> datetime | None:
    """Answer how far a kind has been counted."""
    found: datetime | None = connection.execute(
        select(TRAFFIC_MARK.c.counted_until).where(TRAFFIC_MARK.c.kind == kind)
    ).scalar_one_or_none()
    return found


def _next_at(connection: Connection, kind: str, since: datetime, until: datetime) -> datetime | None:
    found = [
        connection.execute(
            select(func.min(stream.at)).where(*stream.only, stream.at >= since, stream.at < until)
        ).scalar_one()
        for stream in STREAMS[kind]
    ]
    return min((at for at in found if at is not None), default=None)


def _heard(connection: Connection, kind: str, start: datetime, end: datetime) -> dict[Source, _Heard]:
    heard: dict[Source, _Heard] = defaultdict(_Heard)
    for stream in STREAMS[kind]:
        rows = stream.where(stream.at >= start, stream.at < end).subquery()
        if connection.dialect.name == "postgresql":
            minute: Any = func.to_char(func.timezone("UTC", rows.c.at), text("'YYYY-MM-DD HH24:MI'"))
        else:
            minute = func.substr(rows.c.at, 1, 16)
        by = (rows.c.name, rows.c.facility, rows.c.peer, minute)
        found = (func.count(), func.min(rows.c.at), func.max(rows.c.at), func.sum(rows.c.bytes))
        counted = connection.execute(select(*by, *found).group_by(*by))
        for name, facility, peer, at_minute, number, first, last, size in counted:
            one = heard[source_of(kind, name, facility, peer)]
            one.items[at_minute] += number
            one.bytes[at_minute[:13]] += int(size)
            one.first_at = min(one.first_at, first)
            if last > one.last_at:
                one.last_at, one.last_what = last, stream.what
    return heard


def source_of(kind: str, name: str, facility: str, peer: str) -> Source:
    """Answer by what a source is known: a sender also by its host, whose port is another with each connection."""
    host = peer.rpartition(":")[0] or peer
    return (name, facility, host.strip("[]")) if kind == "sender" else (name.strip(), "", "")


def _move_mark(transaction: Transaction, kind: str, source: datetime | None, to: datetime) -> bool:
    if source is None:
        first = transaction.insert_ignoring(TRAFFIC_MARK).values(kind=kind, counted_until=to)
        return transaction.execute(first.returning(TRAFFIC_MARK.c.kind)).first() is not None
    moved = transaction.execute(
        update(TRAFFIC_MARK)
        .where(TRAFFIC_MARK.c.kind == kind, TRAFFIC_MARK.c.counted_until == source)
        .values(counted_until=to)
    )
    return moved.rowcount == 1


def _store(transaction: Transaction, kind: str, heard: Mapping[Source, _Heard]) -> None:
    columns = (TRAFFIC_SOURCE.c[name] for name in ("id", "name", "facility", "peer", "last_at"))
    known = {
        (row.name, row.facility, row.peer): row
        for row in transaction.execute(select(*columns).where(TRAFFIC_SOURCE.c.kind == kind))
    }
    room = MAX_SOURCES - len(known)
    for source, one in heard.items():
        latest = {"last_at": one.last_at, "last_what": one.last_what}
        if source in known:
            key = known[source].id
            if one.last_at > known[source].last_at:
                transaction.execute(update(TRAFFIC_SOURCE).where(TRAFFIC_SOURCE.c.id == key).values(**latest))
        elif room > 0:
            room -= 1
            name, facility, peer = source
            identity = {"kind": kind, "name": name, "facility": facility, "peer": peer}
            values = {**identity, **latest, "first_at": one.first_at, "rhythm": [], "learnt_until": None}
            key = transaction.insert(TRAFFIC_SOURCE, values)
        else:
            continue
        transaction.execute(
            _adding_to_hour(transaction),
            [{"source": key, **added} for added in one.hours()],
        )


def _adding_to_hour(transaction: Transaction) -> Any:
    insert: Any = (postgresql if transaction.is_postgresql else sqlite).insert(TRAFFIC_HOUR)
    added = {name: TRAFFIC_HOUR.c[name] + insert.excluded[name] for name in ("items", "minutes", "bytes")}
    return insert.on_conflict_do_update(index_elements=["source", "hour"], set_=added)


def learn_rhythms(engine: Engine, *, now: datetime, zone: tzinfo) -> int:
    """Learn again what has a whole hour more to tell, and forget what is too old. Answers how many were learnt."""
    oldest = now - HISTORY - timedelta(days=1)
    learnt = 0
    with closing(Transaction(engine)) as transaction:
        for kind in STREAMS:
            mark = mark_of(transaction.connection, kind)
            if mark is None:
                continue
            table = TRAFFIC_SOURCE
            stale = or_(
                table.c.learnt_until.is_(None),
                table.c.learnt_until < mark.replace(minute=0, second=0, microsecond=0),
            )
            due = transaction.execute(
                select(table.c.id, table.c.first_at).where(table.c.kind == kind, stale).limit(MAX_LEARNT)
            ).all()
            for source in due:
                heard = _hours(transaction, source.id)
                rhythm = learn(heard, first_at=source.first_at, now=now, zone=zone, until=mark)
                transaction.execute(
                    update(table)
                    .where(table.c.id == source.id)
                    .values(rhythm=as_stored(rhythm), learnt_until=mark)
                )
            learnt += len(due)
        if learnt:  # about once an hour
            _forget(transaction, oldest)
        transaction.commit()
    return learnt


def _forget(transaction: Transaction, oldest: datetime) -> None:
    gone = select(TRAFFIC_SOURCE.c.id).where(TRAFFIC_SOURCE.c.last_at < oldest)
    transaction.execute(
        delete(TRAFFIC_HOUR).where(or_(TRAFFIC_HOUR.c.hour < oldest, TRAFFIC_HOUR.c.source.in_(gone)))
    )
    transaction.execute(delete(TRAFFIC_SOURCE).where(TRAFFIC_SOURCE.c.last_at < oldest))


def _hours(transaction: Transaction, source: int) -> list[HeardHour]:
    table = TRAFFIC_HOUR
    rows = transaction.execute(
        select(table.c.hour, table.c["items"].label("number"), table.c.minutes).where(
            table.c.source == source
        )
    )
    return [HeardHour(row.hour, row.number, min(row.minutes, 60)) for row in rows]


def measure_images(engine: Engine, *, now: datetime) -> int:
    """Write down how many bytes the received images have; answers it. Raises DatabaseUnavailable."""
    with reading(engine) as connection:
        total = int(
            connection.execute(select(func.coalesce(func.sum(INSTANCE.c.size_bytes), 0))).scalar_one()
        )
    with closing(Transaction(engine)) as transaction:
        values = {"value": total, "at": now}
        known = transaction.execute(
            update(MEASUREMENT).where(MEASUREMENT.c.name == IMAGE_BYTES).values(**values)
        )
        if not known.rowcount:
            transaction.execute(transaction.insert_ignoring(MEASUREMENT), {"name": IMAGE_BYTES, **values})
        transaction.commit()
    return total


def as_stored(rhythm: Rhythm) -> list[list[float] | None]:
    """Write a rhythm as its column holds it."""
    return [None if usual is None else [usual.items, usual.minutes] for usual in rhythm.hours]
