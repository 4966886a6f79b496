"""Narrows a worklist query in SQL; domain matching decides.

One condition drives: the most telling key of the query, through its index, gives the ids. So the cost of a query
grows with its answer and not with the list. What SQL finds is a superset of what matches, on every database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Engine,
    FromClause,
    Row,
    Select,
    String,
    Text,
    TextClause,
    and_,
    bindparam,
    cast,
    literal_column,
    or_,
    select,
    text,
    union_all,
)

from broker.db.encoding import decode_attributes
from broker.db.engine import READ_ONLY
from broker.db.repositories.steps import read_entries
from broker.db.schema import ORDER, PATIENT, PROCEDURE, STEP, STEP_STATION
from broker.db.tables import UtcDateTime
from broker.db.transaction import Transaction
from broker.db.worklist_plan import (
    IDENTIFYING,
    Plan,
    Shape,
    after,
    dates_of,
    escaped,
    identifying,
    listed,
    plan_query,
)
from broker.domain.matching import (
    Key,
    StepView,
    WorklistQuery,
)
from broker.domain.orders import AttributeValue, Code, WorklistEntry
from broker.domain.values import date_text
from broker.workflow.worklist import Candidate, Visibility

_PAGE = 64
_CHUNK = 200

_STEP_COLUMNS: Mapping[Key, str] = {
    Key.START_DATE: "start_date",
    Key.START_TIME: "start_time",
    Key.MODALITY: "modality",
    Key.SPS_ID: "scheduled_procedure_step_id",
    Key.SPS_STATUS: "status",
    Key.PATIENT_NAME: "name_key",
    Key.PATIENT_ID: "patient_id",
    Key.ACCESSION_NUMBER: "accession_number",
    Key.RP_ID: "requested_procedure_id",
    Key.STUDY_INSTANCE_UID: "study_instance_uid",
}
_OTHER_COLUMNS: Mapping[Key, tuple[str, str]] = {
    Key.ISSUER_OF_PATIENT_ID: ("patient", "issuer"),
    Key.BIRTH_DATE: ("patient", "birth_date"),
    Key.SEX: ("patient", "sex"),
    Key.PLACER_ORDER_NUMBER: ("imaging_order", "placer_order_number"),
    Key.FILLER_ORDER_NUMBER: ("imaging_order", "filler_order_number"),
}
_ATTRIBUTE_TABLES = ("step_attributes", "procedure_attributes", "order_attributes", "patient_attributes")
"""In the order in which `matching.attribute_of` looks."""


class SqlWorklistReader:
    """Implements the WorklistReader port. No transaction outlives the reading of a page."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_postgresql = engine.dialect.name == "postgresql"
        # Every statement stands alone, so PostgreSQL needs no transaction around it, nor SQLite its write lock.
        options = {"isolation_level": "AUTOCOMMIT"} if self._is_postgresql else {READ_ONLY: True}
        self._reading = engine.execution_options(**options)

    def candidates(self, query: WorklistQuery, visibility: Visibility) -> Iterator[Candidate]:
        """Answer candidates in the order of the worklist.

        A usual answer is one statement. A long one is read in pieces by id: no transaction stays open while a
        slow device takes its answers, and what changed in between is seen as it is then.
        """
        plan = plan_query(query, visibility, is_postgresql=self._is_postgresql)
        if plan is None:
            return
        with self._reading.connect() as connection:
            rows = connection.execute(
                _page(plan.shape, self._is_postgresql), {**plan.parameters, "page": _PAGE + 1}
            ).all()
            more: Sequence[int] = ()
            if len(rows) > _PAGE:
                ids = connection.execute(_ids(plan.shape, self._is_postgresql), plan.parameters)
                seen = {row[0] for row in rows}
                more = [step for step in ids.scalars() if step not in seen]
        view = _view_maker(plan.shape.keys)
        for row in rows:
            yield Candidate(row[0], row[1], row[2], view(row))
        for start in range(0, len(more), _CHUNK):
            yield from self._chunk(plan, more[start : start + _CHUNK], view)

    def _chunk(
        self, plan: Plan, ids: Sequence[int], view: Callable[[Row[Any]], StepView]
    ) -> Iterator[Candidate]:
        with self._reading.connect() as connection:
            found = connection.execute(_by_ids(plan.shape), {**plan.parameters, "ids": list(ids)})
            rows = {row[0]: row for row in found}
        for step in ids:
            row = rows.get(step)
            if row is not None:
                yield Candidate(step, row[1], row[2], view(row))

    def near(self, query: WorklistQuery, *, limit: int) -> list[tuple[WorklistEntry, datetime]]:
        """Answer entries in any status that agree with one key that identifies, newest first."""
        conditions = _near_conditions(query, is_postgresql=self._is_postgresql)
        transaction = Transaction(self._engine.execution_options(**{READ_ONLY: True}))
        try:
            ids: dict[int, datetime] = {}
            for condition in conditions:
                rows = transaction.execute(
                    select(STEP.c.id, STEP.c.status_changed_at)
                    .where(condition)
                    .order_by(STEP.c.id.desc())
                    .limit(limit)
                )
                ids |= {row.id: row.status_changed_at for row in rows}
            entries = read_entries(transaction, select(STEP).where(STEP.c.id.in_(list(ids)[: limit * 2])))
            return [(entry, ids[entry.step.id]) for entry in entries]
        finally:
            transaction.rollback()


_DRIVING_COLUMNS = {
    "study": STEP.c.study_instance_uid,
    "accession": STEP.c.accession_number,
    "patient_id": STEP.c.patient_id,
    "name": STEP.c.name_key,
}


_HAS_GROUPS = {False: "instr(name_key, '=') > 0", True: "strpos(name_key, '=') > 0"}


# --- statements ------------------------------------------------------------------------------------------


def _text_list(name: str) -> ColumnElement[Any]:
    return bindparam(name, expanding=True, type_=String())


def _among(column: ColumnElement[Any], name: str, *, one: bool) -> ColumnElement[bool]:
    return column == bindparam(name, type_=String()) if one else column.in_(_text_list(name))


_IS_COMPLETE = cast(STEP.c.missing, Text) == literal_column("'[]'")


def _offered(column: ColumnElement[bool]) -> ColumnElement[bool]:
    return column == literal_column("true", Boolean)


def _date_conditions(shape: Shape, column: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if shape.has_first:
        conditions.append(column >= bindparam("first", type_=String()))
    if shape.has_last:
        conditions.append(column <= bindparam("last", type_=String()))
    return conditions


def _prefix_condition(number: int, column: ColumnElement[Any], *, is_postgresql: bool) -> ColumnElement[bool]:
    if is_postgresql:
        return column.like(bindparam(f"like{number}", type_=String()), escape="\\")
    low, high = bindparam(f"low{number}", type_=String()), bindparam(f"high{number}", type_=String())
    return (column >= low) & (column < high)


def _driver(shape: Shape, *, is_postgresql: bool) -> Select[Any]:
    """Select the ids of the steps the most telling key leaves, in any order."""
    kind = shape.driver
    if kind == "station":
        stations = STEP_STATION.c
        conditions = [
            _among(stations.ae_title, "stations", one=shape.one_station),
            *_date_conditions(shape, stations.start_date),
        ]
        # Naming both values keeps the index on (title, offered, date) usable.
        conditions.append(
            _offered(stations.offered) if shape.offered_only else stations.offered.in_([True, False])
        )
        return select(stations.step.label("id")).where(*conditions)
    conditions = []
    if kind in _DRIVING_COLUMNS:
        return _identified(shape, _DRIVING_COLUMNS[kind], is_postgresql=is_postgresql)
    conditions += [_offered(STEP.c.offered) if shape.offered_only else STEP.c.offered.in_([True, False])]
    if kind == "modality":
        conditions.append(STEP.c.modality.in_(_text_list("modalities")))
    conditions += _date_conditions(shape, STEP.c.start_date)
    return select(STEP.c.id).where(*conditions)


def _identified(shape: Shape, column: ColumnElement[Any], *, is_postgresql: bool) -> Select[Any]:
    branches: list[Select[Any]] = []
    if shape.has_exact:
        branches.append(select(STEP.c.id).where(column.in_(_text_list("exact"))))
    for number in range(shape.prefixes):
        branches.append(
            select(STEP.c.id).where(_prefix_condition(number, column, is_postgresql=is_postgresql))
        )
        if column is STEP.c.name_key:
            # Ideographic and phonetic groups stand behind "="; a partial index knows which names have them.
            inner = column.like(bindparam(f"inner{number}", type_=String()), escape="\\")
            branches.append(
                select(STEP.c.id).where(
                    # Word for word the condition of the partial index.
                    text(_HAS_GROUPS[is_postgresql]),
                    inner,
                )
            )
    if len(branches) == 1:
        return branches[0]
    ids = union_all(*branches).subquery()
    return select(ids.c.id)


def _exceptional(shape: Shape) -> list[Select[Any]]:
    """Select the steps that are shown although they are not offered any more."""
    found: list[Select[Any]] = []
    if shape.started:
        found.append(
            select(STEP.c.id).where(
                STEP.c.status == literal_column("'STARTED'"),
                STEP.c.status_changed_at >= bindparam("started_since", type_=UtcDateTime()),
                _among(STEP.c.modality.concat(""), "started_modalities", one=shape.one_started_modality),
                _IS_COMPLETE,
            )
        )
    if shape.discontinued:
        found.append(
            select(STEP.c.id).where(
                STEP.c.status == literal_column("'DISCONTINUED'"),
                STEP.c.status_changed_at >= bindparam("discontinued_since", type_=UtcDateTime()),
                STEP.c.previous_status == literal_column("'STARTED'"),
                _IS_COMPLETE,
            )
        )
    return found


def _narrowed(shape: Shape, columns: Sequence[Any], *, is_postgresql: bool) -> Select[Any]:
    driver = _driver(shape, is_postgresql=is_postgresql)
    exceptional = _exceptional(shape)
    ids = union_all(driver, *exceptional) if exceptional else driver
    statement = select(*columns).select_from(_tables(shape.keys)).where(STEP.c.id.in_(ids))
    if shape.driver in _DRIVING_COLUMNS or shape.by_status:
        return _visible(shape, statement)
    return statement  # `offered` says it all, and so do the exceptions


def _visible(shape: Shape, statement: Select[Any]) -> Select[Any]:
    """Repeat the status in a form no index is tempted by; the ids come from the driver."""
    if shape.by_status:
        return statement.where(STEP.c.status.concat("").in_(_text_list("statuses")), _IS_COMPLETE)
    wanted = ["SCHEDULED", "ARRIVED", "READY"]
    if shape.started:
        wanted.append("STARTED")
    if shape.discontinued:
        wanted.append("DISCONTINUED")
    values = ", ".join(f"'{status}'" for status in wanted)
    statement = statement.where(text(f"scheduled_procedure_step.status || '' IN ({values})"))
    if not (shape.started or shape.discontinued):
        return statement.where(_IS_COMPLETE)
    allowed: list[ColumnElement[bool] | TextClause] = [
        text("scheduled_procedure_step.status || '' IN ('SCHEDULED', 'ARRIVED', 'READY')")
    ]
    if shape.started:
        allowed.append(
            (STEP.c.status.concat("") == literal_column("'STARTED'"))
            & (STEP.c.status_changed_at >= bindparam("started_since", type_=UtcDateTime()))
            & _among(STEP.c.modality.concat(""), "started_modalities", one=shape.one_started_modality)
        )
    if shape.discontinued:
        allowed.append(
            (STEP.c.status.concat("") == literal_column("'DISCONTINUED'"))
            & (STEP.c.status_changed_at >= bindparam("discontinued_since", type_=UtcDateTime()))
            & (STEP.c.previous_status == literal_column("'STARTED'"))
        )
    return statement.where(or_(*allowed), _IS_COMPLETE)


_ORDER = (STEP.c.start_date, STEP.c.start_time, STEP.c.priority_rank, STEP.c.name_key, STEP.c.id)


@lru_cache(maxsize=512)
def _page(shape: Shape, is_postgresql: bool) -> Select[Any]:
    statement = _narrowed(shape, _columns(shape.keys), is_postgresql=is_postgresql)
    return statement.order_by(*_ORDER).limit(bindparam("page"))


@lru_cache(maxsize=512)
def _ids(shape: Shape, is_postgresql: bool) -> Select[Any]:
    return _narrowed(shape, [STEP.c.id], is_postgresql=is_postgresql).order_by(*_ORDER)


@lru_cache(maxsize=512)
def _by_ids(shape: Shape) -> Select[Any]:
    statement = (
        select(*_columns(shape.keys))
        .select_from(_tables(shape.keys))
        .where(STEP.c.id.in_(bindparam("ids", expanding=True)))
    )
    return _visible(shape, statement)


def _needs_attributes(keys: frozenset[Key]) -> bool:
    return any(
        key not in _STEP_COLUMNS and key not in _OTHER_COLUMNS and key is not Key.STATION_AE_TITLE
        for key in keys
    )


def _tables(keys: frozenset[Key]) -> FromClause:
    tables: FromClause = STEP
    everything = _needs_attributes(keys)
    names = {_OTHER_COLUMNS[key][0] for key in keys if key in _OTHER_COLUMNS}
    if everything or "patient" in names:
        tables = tables.join(PATIENT, PATIENT.c.id == STEP.c.patient)
    if everything or "imaging_order" in names:
        tables = tables.join(ORDER, ORDER.c.id == STEP.c.order)
    if everything:
        tables = tables.join(PROCEDURE, PROCEDURE.c.id == STEP.c.procedure)
    return tables


def _columns(keys: frozenset[Key]) -> list[ColumnElement[Any]]:
    """List the columns of an answer: id, revision, elements, then what the criteria look at."""
    columns: list[ColumnElement[Any]] = [STEP.c.id, STEP.c.revision, STEP.c.elements]
    if keys & {Key.START_DATE, Key.START_TIME}:
        columns.append(STEP.c.time_unspecified)
    if Key.STATION_AE_TITLE in keys:
        columns.append(cast(STEP.c.station_ae_titles, Text).label("station_ae_titles"))
    for key in sorted(keys, key=lambda k: k.value):
        if key in _STEP_COLUMNS:
            columns.append(STEP.c[_STEP_COLUMNS[key]].label(key.name))
        elif key in _OTHER_COLUMNS:
            source, column = _OTHER_COLUMNS[key]
            columns.append((PATIENT if source == "patient" else ORDER).c[column].label(key.name))
    if _needs_attributes(keys):
        for table, name in zip((STEP, PROCEDURE, ORDER, PATIENT), _ATTRIBUTE_TABLES, strict=True):
            columns.append(table.c.attributes.label(name))
    return columns


@lru_cache(maxsize=512)
def _view_maker(keys: frozenset[Key]) -> Callable[[Row[Any]], StepView]:
    """Make the function that shows a row to the criteria."""
    places = {column.key: place for place, column in enumerate(_columns(keys))}
    plain = [(key, places[key.name]) for key in keys if key.name in places]
    stations = places.get("station_ae_titles")
    unspecified = places.get("time_unspecified")
    attributes = [
        key
        for key in keys
        if key not in _STEP_COLUMNS and key not in _OTHER_COLUMNS and key is not Key.STATION_AE_TITLE
    ]

    def view(row: Row[Any]) -> StepView:
        values: dict[Key, tuple[str, ...]] = {key: (row[place] or "",) for key, place in plain}
        if stations is not None:
            values[Key.STATION_AE_TITLE] = _titles(row[stations])
        codes: dict[Key, tuple[Code, ...]] = {}
        if attributes:
            stored = [decode_attributes(row[places[name]]) for name in _ATTRIBUTE_TABLES]
            for key in attributes:
                value = _first_known(stored, key.value)
                if isinstance(value, str):
                    values[key] = (value,)
                else:
                    codes[key] = tuple(item for item in value if isinstance(item, Code))
                    values[key] = tuple(item for item in value if isinstance(item, str))
        return StepView(values, codes, unspecified is not None and bool(row[unspecified]))

    return view


@lru_cache(maxsize=4096)
def _titles(stored: str) -> tuple[str, ...]:
    return tuple(json.loads(stored))


def _first_known(stored: Sequence[Mapping[str, AttributeValue]], keyword: str) -> AttributeValue:
    for attributes in stored:
        value = attributes.get(keyword)
        if value:
            return value
    return ""


# --- near misses -----------------------------------------------------------------------------------------


def _near_conditions(query: WorklistQuery, *, is_postgresql: bool) -> list[ColumnElement[bool]]:
    """Give one condition for each key that identifies, and one for the place and day."""
    conditions: list[ColumnElement[bool]] = []
    for name, key in IDENTIFYING:
        found = identifying(query, key)
        if found is None:
            continue
        column = _DRIVING_COLUMNS[name]
        exact, prefixes = found
        if exact:
            conditions.append(column.in_(exact))
        for prefix in prefixes:
            if is_postgresql:
                conditions.append(column.like(escaped(prefix) + "%", escape="\\"))
            else:
                conditions.append((column >= prefix) & (column < after(prefix)))
    stations, dates = listed(query, Key.STATION_AE_TITLE, fold=True), dates_of(query)
    if stations:
        conditions.append(
            STEP.c.id.in_(select(STEP_STATION.c.step).where(STEP_STATION.c.ae_title.in_(stations)))
        )
    if dates is not None and not dates.is_empty:
        between = []
        if dates.first is not None:
            between.append(STEP.c.start_date >= date_text(dates.first))
        if dates.last is not None:
            between.append(STEP.c.start_date <= date_text(dates.last))
        conditions.append(and_(*between))
    return conditions
