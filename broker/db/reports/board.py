"""Lists the worklist in slices: each begins behind the step the one before ended with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, and_, func, or_, select, tuple_

from broker.db.reports.reading import Reader, mappings
from broker.db.reports.worklist import WORKLIST_COLUMNS, narrowed, worklist_line
from broker.db.schema import STEP, STEP_STATION
from broker.db.synthetic import of_patients
from broker.workflow.reports_port import MOST_ROWS, WorklistLine
from broker.workflow.worklist_board import BoardDay, BoardFilters

MOST_STATIONS = 200
_LATEST_TIME = func.coalesce(STEP.c.start_time, "")
_EARLIEST_TIME = func.coalesce(STEP.c.start_time, "99")  # those without a time come last
_OF_DAY = (_EARLIEST_TIME, STEP.c.priority_rank, STEP.c.name_key, STEP.c.id)
_OF_ALL = (_LATEST_TIME, STEP.c.id)


class SqlBoardReports(Reader):
    """Implements BoardReports."""

    def board(
        self, filters: BoardFilters, *, after: int | None = None, limit: int = 50
    ) -> Sequence[WorklistLine]:
        """List steps by their start; `after` is the step the slice before ended with."""
        limit = max(0, min(limit, MOST_ROWS))
        statement = narrowed(
            WORKLIST_COLUMNS,
            modality=filters.modality,
            station=filters.station,
            status=filters.status,
            text=filters.text,
        )
        with self._reading() as connection:
            last = None
            if after is not None:
                place = select(STEP.c.start_date, *_named(_OF_DAY), _LATEST_TIME.label("latest"))
                last = connection.execute(place.where(STEP.c.id == after)).mappings().one_or_none()
                if last is None:
                    return []
            if filters.date:
                rows = mappings(connection, _of_day(statement, filters.date, last).limit(limit))
                return [worklist_line(row) for row in rows]
            rows = []
            if last is None or last["start_date"] is not None:
                rows = list(mappings(connection, _dated(statement, last).limit(limit)))
                last = None
            if len(rows) < limit:
                rows += mappings(connection, _undated(statement, last).limit(limit - len(rows)))
        return [worklist_line(row) for row in rows]

    def board_day(self, date: str) -> BoardDay:
        """Count the steps of a day, and name its stations."""
        of_day = and_(STEP.c.start_date == date, of_patients(STEP.c.study_instance_uid))
        counted = select(STEP.c.status, func.count()).where(of_day).group_by(STEP.c.status)
        stations = (
            select(STEP_STATION.c.ae_title)
            .join(STEP, STEP.c.id == STEP_STATION.c.step)
            .where(of_day)
            .distinct()
            .order_by(STEP_STATION.c.ae_title)
            .limit(MOST_STATIONS)
        )
        with self._reading() as connection:
            counts = {status: int(number) for status, number in connection.execute(counted)}
            return BoardDay(counts, tuple(connection.execute(stations).scalars()))


def _named(columns: Sequence[Any]) -> list[Any]:
    return [column.label(f"k{number}") for number, column in enumerate(columns)]


def _of_day(statement: Select[Any], date: str, last: RowMapping | None) -> Select[Any]:
    statement = statement.where(STEP.c.start_date == date).order_by(*_OF_DAY)
    if last is None:
        return statement
    return statement.where(tuple_(*_OF_DAY) > tuple_(*(last[f"k{n}"] for n in range(len(_OF_DAY)))))


def _dated(statement: Select[Any], last: RowMapping | None) -> Select[Any]:
    latest_first = (STEP.c.start_date.desc(), *(column.desc() for column in _OF_ALL))
    statement = statement.where(STEP.c.start_date.is_not(None)).order_by(*latest_first)
    if last is None:
        return statement
    date: ColumnElement[Any] = STEP.c.start_date
    return statement.where(
        date <= last["start_date"],  # what the index narrows by
        or_(date < last["start_date"], and_(date == last["start_date"], _behind(last))),
    )


def _undated(statement: Select[Any], last: RowMapping | None) -> Select[Any]:
    statement = statement.where(STEP.c.start_date.is_(None)).order_by(*(column.desc() for column in _OF_ALL))
    return statement if last is None else statement.where(_behind(last))


def _behind(last: RowMapping) -> ColumnElement[bool]:
    return tuple_(*_OF_ALL) < tuple_(last["latest"], last["k3"])
