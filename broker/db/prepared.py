"""Statements of the hot paths, compiled once per database and handed to the driver as they are.

SQLAlchemy Core writes and types them. What it would do again for every run (build a cache key, a context, a result)
costs ten times what the database itself needs for a row, so a prepared statement keeps only the text and the
conversions of its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import BindParameter, CompoundSelect, Delete, Dialect, Insert, Select, Table, Update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from broker.db.columns import UtcDateTime

Convert = Callable[[Any], Any]
Values = Mapping[str, Any]
Statement = Select[Any] | CompoundSelect[Any] | Insert | Update | Delete


class Compiled:
    """A statement in the words of one database."""

    __slots__ = ("_binds", "_defaults", "_is_positional", "_names", "_results", "text")

    def __init__(self, statement: Any, dialect: Dialect, columns: Sequence[str] | None) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        assert isinstance(compiled, SQLCompiler)
        if compiled.post_compile_params or compiled.insert_prefetch or compiled.update_prefetch:
            raise TypeError("a statement whose text depends on its values cannot be prepared")
        self.text = compiled.string
        self._is_positional = compiled.positional
        known = compiled.params
        order = compiled.positiontup if compiled.positional else list(known)
        self._binds = [(name, _bind(compiled.binds[name], dialect)) for name in order or ()]
        self._defaults = {name: value for name, value in known.items() if not compiled.binds[name].required}
        returned = [
            (column.key, _result(column.type, dialect))
            for column in getattr(statement, "exported_columns", ())
            if column.key is not None
        ]
        self._names = tuple(name for name, _ in returned)
        self._results = [(place, convert) for place, (_, convert) in enumerate(returned) if convert]

    def bind(self, values: Values) -> tuple[Any, ...] | dict[str, Any]:
        """Answer the values as the driver takes them. Raises KeyError when one is missing."""
        if self._defaults:
            values = {**self._defaults, **values}
        if self._is_positional:
            return tuple(
                [values[name] if convert is None else convert(values[name]) for name, convert in self._binds]
            )
        return {
            name: values[name] if convert is None else convert(values[name]) for name, convert in self._binds
        }

    def converted(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Answer rows of the driver by place."""
        if not self._results:
            return rows
        found: list[tuple[Any, ...]] = []
        for raw in rows:
            row = list(raw)
            for place, convert in self._results:
                row[place] = convert(row[place])
            found.append(tuple(row))
        return found

    def row(self, raw: Sequence[Any]) -> dict[str, Any]:
        """Answer a row of the driver by the names of its columns."""
        row = dict(zip(self._names, raw, strict=True))
        for place, convert in self._results:
            name = self._names[place]
            row[name] = convert(row[name])
        return row


class Prepared:
    """A statement that is run often: its text is made when it is first run."""

    __slots__ = ("_columns", "_compiled", "_statement")

    def __init__(self, statement: Statement, columns: Sequence[str] | None = None) -> None:
        """Keep the statement; `columns` are those an INSERT or UPDATE takes from the values it is run with."""
        self._statement: Any = statement
        self._columns = columns
        self._compiled: dict[str, Compiled] = {}

    def compiled(self, dialect: Dialect) -> Compiled:
        """Answer it in the words of a database."""
        found = self._compiled.get(dialect.name)
        if found is None:
            found = Compiled(self._statement, dialect, self._columns)
            self._compiled[dialect.name] = found
        return found


class PreparedInsert:
    """An INSERT into one table, prepared for each set of columns it is run with."""

    __slots__ = ("_ignoring", "_prepared", "_returning", "_table")

    def __init__(self, table: Table, *, ignoring: bool = False, returning: bool = True) -> None:
        """Insert into `table`; `ignoring` leaves rows out whose unique key exists, `returning` answers the id."""
        self._table = table
        self._ignoring = ignoring
        self._returning = returning
        self._prepared: dict[tuple[str, ...], Compiled] = {}

    def compiled(self, dialect: Dialect, columns: tuple[str, ...]) -> Compiled:
        """Answer it in the words of a database."""
        key = (dialect.name, *columns)
        found = self._prepared.get(key)
        if found is None:
            statement: Any = self._table.insert()
            if self._ignoring:
                insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
                statement = insert(self._table).on_conflict_do_nothing()
            if self._returning:
                statement = statement.returning(self._table.c.id)
            found = self._prepared[key] = Compiled(statement, dialect, columns)
        return found


_INSTANTS: dict[str, Convert] = {}


def _bind(bind: BindParameter[Any], dialect: Dialect) -> Convert | None:
    convert = _of(bind.type, dialect).bind_processor(dialect)
    if convert is not None and isinstance(bind.type, UtcDateTime):
        return _INSTANTS.setdefault(dialect.name, _remembering(convert))
    return convert


def _remembering(convert: Convert) -> Convert:
    """Convert an instant once: the rows of one message repeat two or three of them a dozen times."""
    remembered = lru_cache(maxsize=64)(convert)

    def converted(value: datetime | None) -> Any:
        # In other zones two instants are equal when the clocks are set back.
        return remembered(value) if value is not None and value.tzinfo is UTC else convert(value)

    return converted


def _result(kind: TypeEngine[Any], dialect: Dialect) -> Convert | None:
    return _of(kind, dialect).result_processor(dialect, None)


def _of(kind: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    return kind.dialect_impl(dialect)
