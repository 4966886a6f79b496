"""Lists who talks to us."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, select

from broker.db.reports.reading import Reader, mappings
from broker.db.schema import TRAFFIC_SOURCE
from broker.db.traffic import MAX_SOURCES, STREAMS, Source, mark_of, source_of
from broker.domain.rhythm import HOURS_OF_WEEK, NOTHING_KNOWN, Rhythm, UsualHour
from broker.workflow.overview_port import SourceLine

_UNCOUNTED = 5000
"""Rows looked at that came after the mark: about a minute's worth, however many there were."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class SourceReports(Reader):
    """Implements the sources part of the Reports port."""

    def sources(self) -> Sequence[SourceLine]:
        """Answer who was heard in the last weeks, senders and devices."""
        with self._reading() as connection:
            known = {
                (row["kind"], (row["name"], row["facility"], row["peer"])): dict(row)
                for row in mappings(connection, select(TRAFFIC_SOURCE).limit(2 * MAX_SOURCES))
            }
            for kind in STREAMS:
                for source, (at, what) in _since_the_mark(connection, kind).items():
                    row = known.setdefault(
                        (kind, source), {"last_at": _LONG_AGO, "last_what": what, "rhythm": []}
                    )
                    if at > row["last_at"]:
                        row |= {"last_at": at, "last_what": what}
        return [
            SourceLine(
                kind=kind,
                name=name,
                facility=facility,
                peer=peer,
                last_at=row["last_at"],
                last_what=row["last_what"],
                rhythm=_rhythm(row["rhythm"]),
            )
            for (kind, (name, facility, peer)), row in known.items()
        ]


def _since_the_mark(connection: Connection, kind: str) -> dict[Source, tuple[datetime, str]]:
    mark = mark_of(connection, kind) or _LONG_AGO
    found: dict[Source, tuple[datetime, str]] = {}
    for stream in STREAMS[kind]:
        newest = stream.where(stream.at >= mark).order_by(stream.at.desc()).limit(_UNCOUNTED).subquery()
        by = (newest.c.name, newest.c.facility, newest.c.peer)
        for name, facility, peer, at in connection.execute(select(*by, func.max(newest.c.at)).group_by(*by)):
            source = source_of(kind, name, facility, peer)
            if source not in found or at > found[source][0]:
                found[source] = (at, stream.what)
    return found


def _rhythm(stored: list[Any]) -> Rhythm:
    if len(stored) != HOURS_OF_WEEK:
        return NOTHING_KNOWN
    return Rhythm(tuple(None if pair is None else UsualHour(*pair) for pair in stored))
