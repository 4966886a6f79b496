"""One database transaction, begun when the first statement needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from broker.db.errors import as_broker_error, as_broker_error_of
from broker.db.prepared import Compiled, Prepared, PreparedInsert
from broker.errors import DatabaseUnavailable

Values = Mapping[str, Any]


class Turn:
    """Hands SQLite's one write lock from thread to thread of a process; SQLite would let them sleep and try again."""

    def __init__(self, *, timeout_s: float = 30.0) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._timeout_s = timeout_s

    def take(self) -> None:
        """Wait for the turn. Raises DatabaseUnavailable when it does not come in time."""
        if self._owner == threading.get_ident():
            raise RuntimeError(
                "this thread writes in one transaction already; its second would wait for the first"
            )
        if not self._lock.acquire(timeout=self._timeout_s):
            raise DatabaseUnavailable("The database is busy.")
        self._owner = threading.get_ident()

    def give(self) -> None:
        """Let the next have it."""
        self._owner = None
        self._lock.release()


class Transaction:
    """Runs statements in one transaction at a time; after `commit` the next statement begins another."""

    def __init__(self, engine: Engine, *, turn: Turn | None = None) -> None:
        self._engine = engine
        self._turn = turn
        self._has_turn = False
        self._connection: Connection | None = None
        self._driver: Any = None
        """The driver's own connection, unless it was lost."""
        self.is_postgresql = engine.dialect.name == "postgresql"

    @property
    def connection(self) -> Connection:
        """Answer the connection, in a transaction. Raises DatabaseUnavailable."""
        self.begin()
        assert self._connection is not None
        return self._connection

    def begin(self) -> None:
        """Begin the transaction if it has not begun. Raises DatabaseUnavailable."""
        if self._connection is None:
            self._connect()

    def execute(
        self, statement: Executable, parameters: Values | Sequence[Values] | None = None
    ) -> CursorResult[Any]:
        """Run one statement. Raises the broker's errors only."""
        connection = self.connection
        with _TRANSLATED:
            return connection.execute(statement, parameters)

    def rows(self, prepared: Prepared, values: Values) -> list[dict[str, Any]]:
        """Run a prepared statement and answer its rows. Raises the broker's errors only."""
        compiled = prepared.compiled(self._engine.dialect)
        return [compiled.row(row) for row in self._run(compiled, values)[0]]

    def row(self, prepared: Prepared, values: Values) -> dict[str, Any] | None:
        """Run a prepared statement and answer its first row, if there is one."""
        rows = self.rows(prepared, values)
        return rows[0] if rows else None

    def change(self, prepared: Prepared, values: Values) -> int:
        """Run a prepared statement without rows and answer how many it changed."""
        return self._run(prepared.compiled(self._engine.dialect), values, has_rows=False)[1]

    def insert(self, table: Table, values: Values) -> int:
        """Insert a row and answer its id. Raises DuplicateKey."""
        return int(self._insert(_inserting(table), values)[0][0])

    def insert_unless_there(self, table: Table, values: Values) -> int | None:
        """Insert a row and answer its id; None when a unique key exists already, and nothing has failed."""
        found = self._insert(_inserting(table, ignoring=True), values)
        return int(found[0][0]) if found else None

    def insert_many(self, table: Table, rows: Sequence[Values], *, ignoring: bool = False) -> None:
        """Insert rows of the same columns; `ignoring` leaves those out whose unique key exists."""
        if len(rows) == 1:
            self._insert(_inserting(table, ignoring=ignoring), rows[0])
        elif rows:
            prepared = _inserting(table, ignoring=ignoring, returning=False)
            compiled = prepared.compiled(self._engine.dialect, tuple(rows[0]))
            self._run_driver(compiled.text, [compiled.bind(row) for row in rows], many=True)

    def insert_ignoring(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """Start an INSERT that leaves rows out whose unique key exists."""
        if self.is_postgresql:
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()

    def commit(self) -> None:
        """Make everything since the last commit durable."""
        if self._connection is None:
            return
        try:
            with _TRANSLATED:
                self._connection.commit()
        finally:
            self._release()

    def rollback(self) -> None:
        """Undo everything since the last commit."""
        if self._connection is None:
            return
        try:
            self._connection.rollback()
        except DatabaseUnavailable:
            pass  # a connection that is gone has rolled back
        finally:
            self._release()

    def close(self) -> None:
        """Undo what was not committed and give the connection back."""
        self.rollback()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo the block alone when it raises."""
        connection = self.connection
        with _TRANSLATED, connection.begin_nested():
            yield

    def _insert(self, prepared: PreparedInsert, values: Values) -> Sequence[Sequence[Any]]:
        return self._run(prepared.compiled(self._engine.dialect, tuple(values)), values)[0]

    def _run(
        self, compiled: Compiled, values: Values, *, has_rows: bool = True
    ) -> tuple[Sequence[Sequence[Any]], int]:
        return self._run_driver(compiled.text, compiled.bind(values), has_rows=has_rows)

    def _run_driver(
        self, statement: str, values: Any, *, has_rows: bool = False, many: bool = False
    ) -> tuple[Sequence[Sequence[Any]], int]:
        """Answer the rows and how many were changed."""
        connection = self.connection
        driver = self._driver
        if driver is None or connection.dispatch.before_cursor_execute:
            # Somebody listens to every statement, or SQLAlchemy has to say that the connection is lost.
            with _TRANSLATED:
                result = connection.exec_driver_sql(statement, values)
                return (result.fetchall() if has_rows else [], result.rowcount)
        try:
            if many:
                driver.cursor().executemany(statement, values)
                return [], 0
            cursor = driver.execute(statement, values)
            return (cursor.fetchall() if has_rows else [], cursor.rowcount)
        except Exception as error:
            told: Any = error  # SQLAlchemy names a protocol that no driver's errors declare
            if connection.dialect.is_disconnect(told, driver, None):
                self._driver = None
                connection.invalidate(error)
            translated = as_broker_error_of(error)
            if translated is error:
                raise
            raise translated from error

    def _connect(self) -> None:
        if self._turn is not None:
            self._turn.take()
            self._has_turn = True
        try:
            with _TRANSLATED:
                self._connection = connection = self._engine.connect()
                connection.begin()
                self._driver = connection.connection.driver_connection
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        connection, self._connection, self._driver = self._connection, None, None
        try:
            if connection is not None:
                connection.close()
        finally:
            if self._turn is not None and self._has_turn:
                self._has_turn = False
                self._turn.give()


_INSERTS: dict[tuple[str, bool, bool], PreparedInsert] = {}


def _inserting(table: Table, *, ignoring: bool = False, returning: bool = True) -> PreparedInsert:
    key = (table.name, ignoring, returning)
    found = _INSERTS.get(key)
    if found is None:
        found = _INSERTS[key] = PreparedInsert(table, ignoring=ignoring, returning=returning)
    return found


class _Translated:
    """Turns what SQLAlchemy itself says into the broker's errors; what the driver says has been turned already."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SQLAlchemyError) and (translated := as_broker_error(error)) is not None:
            raise translated from None


_TRANSLATED = _Translated()
