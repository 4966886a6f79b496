"""The statements of worklist queries: one for each shape, written once and prepared.

One condition drives: the most telling key of the query, through its index, gives the ids. So the cost of a query
grows with its answer and not with the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    String,
    Text,
    TextClause,
    bindparam,
    cast,
    exists,
    literal_column,
    or_,
    select,
    text,
    type_coerce,
    union_all,
)

from broker.db.columns import UtcDateTime
from broker.db.prepared import Prepared
from broker.db.schema import ORDER, PATIENT, PROBE_RUN, PROCEDURE, STEP, STEP_STATION
from broker.db.worklist_plan import Shape
from broker.domain.matching import Key

PAGE = 64
CHUNK = 64

Row = tuple[Any, ...]

STEP_COLUMNS: Mapping[Key, str] = {
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
OTHER_COLUMNS: Mapping[Key, tuple[str, str]] = {
    Key.ISSUER_OF_PATIENT_ID: ("patient", "issuer"),
    Key.BIRTH_DATE: ("patient", "birth_date"),
    Key.SEX: ("patient", "sex"),
    Key.PLACER_ORDER_NUMBER: ("imaging_order", "placer_order_number"),
    Key.FILLER_ORDER_NUMBER: ("imaging_order", "filler_order_number"),
}
ATTRIBUTE_TABLES = ("step_attributes", "procedure_attributes", "order_attributes", "patient_attributes")
"""In the order in which `matching.attribute_of` looks."""


DRIVING_COLUMNS = {
    "study": STEP.c.study_instance_uid,
    "accession": STEP.c.accession_number,
    "patient_id": STEP.c.patient_id,
    "name": STEP.c.name_key,
}


_HAS_GROUPS = {False: "instr(name_key, '=') > 0", True: "strpos(name_key, '=') > 0"}


# --- statements ------------------------------------------------------------------------------------------


def _among(column: ColumnElement[Any], name: str, count: int) -> ColumnElement[bool]:
    """Compare with as many parameters as there are values: a statement with a list in it cannot be prepared."""
    values = [bindparam(f"{name}{number}", type_=String()) for number in range(count)]
    return column == values[0] if count == 1 else column.in_(values)


_IS_COMPLETE = cast(STEP.c.missing, Text) == literal_column("'[]'")


_TRUE, _FALSE = literal_column("true", Boolean), literal_column("false", Boolean)


def _offered(shape: Shape, column: ColumnElement[bool]) -> ColumnElement[bool]:
    # Naming both values keeps an index that begins with the column, or has it in its middle, usable.
    return column == _TRUE if shape.offered_only else column.in_([_TRUE, _FALSE])


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
            _among(stations.ae_title, "station", shape.stations),
            *_date_conditions(shape, stations.start_date),
        ]
        conditions.append(_offered(shape, stations.offered))
        return select(stations.step.label("id")).where(*conditions)
    conditions = []
    if kind in DRIVING_COLUMNS:
        return _identified(shape, DRIVING_COLUMNS[kind], is_postgresql=is_postgresql)
    conditions.append(_offered(shape, STEP.c.offered))
    if kind == "modality":
        conditions.append(_among(STEP.c.modality, "modality", shape.modalities))
    conditions += _date_conditions(shape, STEP.c.start_date)
    return select(STEP.c.id).where(*conditions)


def _identified(shape: Shape, column: ColumnElement[Any], *, is_postgresql: bool) -> Select[Any]:
    branches: list[Select[Any]] = []
    if shape.exact:
        branches.append(select(STEP.c.id).where(_among(column, "exact", shape.exact)))
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
    if shape.started_modalities:
        found.append(
            select(STEP.c.id).where(
                STEP.c.status == literal_column("'STARTED'"),
                STEP.c.status_changed_at >= bindparam("started_since", type_=UtcDateTime()),
                _among(STEP.c.modality.concat(""), "started_modality", shape.started_modalities),
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
    statement = statement.where(_synthetic(shape))
    if shape.driver in DRIVING_COLUMNS or shape.statuses:
        return _visible(shape, statement)
    return statement  # `offered` says it all, and so do the exceptions


def _synthetic(shape: Shape) -> ColumnElement[bool]:
    """Leave out the steps of synthetic exams, or everything else; asked of each row, with the index of the few."""
    found = exists().where(
        PROBE_RUN.c.study_instance_uid == STEP.c.study_instance_uid,
        PROBE_RUN.c.state == literal_column("'OPEN'"),
    )
    return found if shape.synthetic else ~found


def _visible(shape: Shape, statement: Select[Any]) -> Select[Any]:
    """Repeat the status in a form no index is tempted by; the ids come from the driver."""
    if shape.statuses:
        return statement.where(_among(STEP.c.status.concat(""), "status", shape.statuses), _IS_COMPLETE)
    wanted = ["SCHEDULED", "ARRIVED", "READY"]
    if shape.started_modalities:
        wanted.append("STARTED")
    if shape.discontinued:
        wanted.append("DISCONTINUED")
    values = ", ".join(f"'{status}'" for status in wanted)
    statement = statement.where(text(f"scheduled_procedure_step.status || '' IN ({values})"))
    if not (shape.started_modalities or shape.discontinued):
        return statement.where(_IS_COMPLETE)
    allowed: list[ColumnElement[bool] | TextClause] = [
        text("scheduled_procedure_step.status || '' IN ('SCHEDULED', 'ARRIVED', 'READY')")
    ]
    if shape.started_modalities:
        allowed.append(
            (STEP.c.status.concat("") == literal_column("'STARTED'"))
            & (STEP.c.status_changed_at >= bindparam("started_since", type_=UtcDateTime()))
            & _among(STEP.c.modality.concat(""), "started_modality", shape.started_modalities)
        )
    if shape.discontinued:
        allowed.append(
            (STEP.c.status.concat("") == literal_column("'DISCONTINUED'"))
            & (STEP.c.status_changed_at >= bindparam("discontinued_since", type_=UtcDateTime()))
            & (STEP.c.previous_status == literal_column("'STARTED'"))
        )
    return statement.where(or_(*allowed), _IS_COMPLETE)


_ORDER = (STEP.c.start_date, STEP.c.start_time, STEP.c.priority_rank, STEP.c.name_key, STEP.c.id)


@dataclass(frozen=True, slots=True)
class Statements:
    """What is run for the queries of one shape."""

    page: Prepared
    """The first answers; on PostgreSQL in their order."""
    ids: Prepared
    """The ids of all answers, in their order."""
    by_ids: Prepared
    """The answers of CHUNK ids, as far as they are still visible, in any order."""


@lru_cache(maxsize=512)
def statements_of(shape: Shape, *, is_postgresql: bool) -> Statements:
    """Write the statements of a shape."""
    columns = columns_of(shape.keys)
    page = _narrowed(shape, columns, is_postgresql=is_postgresql)
    if is_postgresql:
        page = page.order_by(*_ORDER)  # SQLite's sorter would carry the elements: `in_order` sorts its page
    by_ids = (
        select(*columns)
        .select_from(_tables(shape.keys))
        .where(STEP.c.id.in_([bindparam(f"id{number}", type_=Integer()) for number in range(CHUNK)]))
    )
    return Statements(
        Prepared(page.limit(literal_column(str(PAGE + 1), Integer))),
        Prepared(_narrowed(shape, [STEP.c.id], is_postgresql=is_postgresql).order_by(*_ORDER)),
        Prepared(_visible(shape, by_ids.where(_synthetic(shape)))),
    )


def in_order(rows: list[Row]) -> list[Row]:
    """Sort a page as the database would: by code point, and what has no date or time first."""
    rows.sort(key=_place_in_order)
    return rows


def _place_in_order(row: Row) -> tuple[str, str, int, str, int]:
    return (row[3] or "", row[4] or "", row[5], row[6], row[0])


def needs_attributes(keys: frozenset[Key]) -> bool:
    """Tell whether a key is among those that stand in no column of their own."""
    return any(
        key not in STEP_COLUMNS and key not in OTHER_COLUMNS and key is not Key.STATION_AE_TITLE
        for key in keys
    )


def _tables(keys: frozenset[Key]) -> FromClause:
    tables: FromClause = STEP
    everything = needs_attributes(keys)
    names = {OTHER_COLUMNS[key][0] for key in keys if key in OTHER_COLUMNS}
    if everything or "patient" in names:
        tables = tables.join(PATIENT, PATIENT.c.id == STEP.c.patient)
    if everything or "imaging_order" in names:
        tables = tables.join(ORDER, ORDER.c.id == STEP.c.order)
    if everything:
        tables = tables.join(PROCEDURE, PROCEDURE.c.id == STEP.c.procedure)
    return tables


FIXED_COLUMNS = 7


@lru_cache(maxsize=512)
def columns_of(keys: frozenset[Key]) -> tuple[ColumnElement[Any], ...]:
    """List the columns of an answer: id, revision, elements, the order, then what the criteria look at."""
    columns: list[ColumnElement[Any]] = [
        STEP.c.id,
        STEP.c.revision,
        STEP.c.elements,
        STEP.c.start_date,
        STEP.c.start_time,
        STEP.c.priority_rank,
        STEP.c.name_key,
    ]
    if Key.START_TIME in keys:
        columns.append(type_coerce(STEP.c.time_unspecified, Integer).label("time_unspecified"))
    if Key.STATION_AE_TITLE in keys:
        columns.append(cast(STEP.c.station_ae_titles, Text).label("station_ae_titles"))
    for key in sorted(keys, key=lambda k: k.value):
        if key in STEP_COLUMNS:
            columns.append(STEP.c[STEP_COLUMNS[key]].label(key.name))
        elif key in OTHER_COLUMNS:
            source, column = OTHER_COLUMNS[key]
            columns.append((PATIENT if source == "patient" else ORDER).c[column].label(key.name))
    if needs_attributes(keys):
        for table, name in zip((STEP, PROCEDURE, ORDER, PATIENT), ATTRIBUTE_TABLES, strict=True):
            columns.append(table.c.attributes.label(name))
    return tuple(columns)
