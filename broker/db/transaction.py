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

from broker.db.errors import as_broker_error
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

    def insert(self, table: Table, values: Values) -> int:
        """Insert a row and answer its id. Raises DuplicateKey."""
        result = self.execute(table.insert(), values)
        key = result.inserted_primary_key
        assert key is not None
        return int(key[0])

    def insert_unless_there(self, table: Table, values: Values) -> int | None:
        """Insert a row and answer its id; None when a unique key exists already, and nothing has failed."""
        statement = self.insert_ignoring(table).returning(table.c.id)
        found = self.execute(statement, values).scalar_one_or_none()
        return None if found is None else int(found)

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

    def _connect(self) -> None:
        if self._turn is not None:
            self._turn.take()
            self._has_turn = True
        try:
            with _TRANSLATED:
                self._connection = self._engine.connect()
                self._connection.begin()
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        finally:
            if self._turn is not None and self._has_turn:
                self._has_turn = False
                self._turn.give()


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
