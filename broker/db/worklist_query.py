"""Narrows a worklist query in SQL; domain matching decides.

What SQL finds is a superset of what matches, on every database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Engine, and_, select

from broker.db.encoding import decode_attributes
from broker.db.engine import READ_ONLY
from broker.db.lookup import Lookup
from broker.db.repositories.steps import read_entries
from broker.db.schema import STEP, STEP_STATION
from broker.db.transaction import Transaction
from broker.db.worklist_plan import (
    IDENTIFYING,
    Plan,
    after,
    dates_of,
    escaped,
    identifying,
    listed,
    plan_query,
)
from broker.db.worklist_statements import (
    ATTRIBUTE_TABLES,
    CHUNK,
    DRIVING_COLUMNS,
    FIXED_COLUMNS,
    OTHER_COLUMNS,
    PAGE,
    STEP_COLUMNS,
    Row,
    Statements,
    columns_of,
    in_order,
    needs_attributes,
    statements_of,
)
from broker.domain.matching import (
    Key,
    StepView,
    WorklistQuery,
)
from broker.domain.orders import AttributeValue, Code, WorklistEntry
from broker.domain.values import date_text
from broker.workflow.worklist import Answer, Candidate, Visibility

_NO_ID = -1


class SqlWorklistReader:
    """Implements the WorklistReader port. No transaction outlives the reading of a page."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lookup = Lookup(engine)
        self._is_postgresql = engine.dialect.name == "postgresql"
        # A device asks the same all day, and the understood query lives as long as it is remembered.
        self._plans: WeakKeyDictionary[WorklistQuery, dict[Hashable, Plan | None]] = WeakKeyDictionary()

    def candidates(self, query: WorklistQuery, visibility: Visibility) -> Iterator[Candidate]:
        """Answer candidates in the order of the worklist.

        A usual answer is one statement. A long one is read in pieces by id: no transaction stays open while a
        slow device takes its answers, and what changed in between is seen as it is then.
        """
        plan = self._plan(query, visibility)
        if plan is None:
            return iter(())
        statements = statements_of(plan.shape, is_postgresql=self._is_postgresql)
        parameters = {
            **plan.parameters,
            "started_since": visibility.started_since,
            "discontinued_since": visibility.discontinued_since,
        }
        rows = self._lookup.rows(statements.page, parameters)
        if len(rows) > PAGE:
            return self._long(statements, parameters, plan.shape.keys)
        return _seen(rows if self._is_postgresql else in_order(rows), plan.shape.keys)

    def _plan(self, query: WorklistQuery, visibility: Visibility) -> Plan | None:
        known = self._plans.get(query)
        if known is None:
            known = self._plans[query] = {}
        kind = visibility.kind
        if kind not in known:
            known[kind] = plan_query(query, visibility, is_postgresql=self._is_postgresql)
        return known[kind]

    def _long(
        self, statements: Statements, parameters: dict[str, Any], keys: frozenset[Key]
    ) -> Iterator[Candidate]:
        ids = [row[0] for row in self._lookup.rows(statements.ids, parameters)]
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            named = {f"id{number}": step for number, step in enumerate(chunk)}
            named |= {f"id{number}": _NO_ID for number in range(len(chunk), CHUNK)}
            rows = {row[0]: row for row in self._lookup.rows(statements.by_ids, {**parameters, **named})}
            yield from _seen([rows[step] for step in chunk if step in rows], keys)

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


# --- showing rows to the criteria ------------------------------------------------------------------------


def _seen(rows: list[Row], keys: frozenset[Key]) -> Iterator[Candidate]:
    view = _view_maker(keys)
    if needs_attributes(keys):
        for row in rows:
            yield Answer(row[0], row[1], row[2]), view(row)
        return
    views: dict[Row, StepView] = {}  # most steps of an answer look the same: one day, one station
    for row in rows:
        looks = row[FIXED_COLUMNS:]
        shown = views.get(looks)
        if shown is None:
            shown = views[looks] = view(row)
        yield Answer(row[0], row[1], row[2]), shown


@lru_cache(maxsize=512)
def _view_maker(keys: frozenset[Key]) -> Callable[[Row], StepView]:
    """Make the function that shows a row to the criteria."""
    places = {column.key: place for place, column in enumerate(columns_of(keys))}
    plain = [(key, places[key.name]) for key in keys if key.name in places]
    stations = places.get("station_ae_titles")
    unspecified = places.get("time_unspecified")
    attributes = [
        key
        for key in keys
        if key not in STEP_COLUMNS and key not in OTHER_COLUMNS and key is not Key.STATION_AE_TITLE
    ]

    def view(row: Row) -> StepView:
        values: dict[Key, tuple[str, ...]] = {key: (row[place] or "",) for key, place in plain}
        if stations is not None:
            values[Key.STATION_AE_TITLE] = _titles(row[stations])
        codes: dict[Key, tuple[Code, ...]] = {}
        if attributes:
            stored = [decode_attributes(row[places[name]]) for name in ATTRIBUTE_TABLES]
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
        column = DRIVING_COLUMNS[name]
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
