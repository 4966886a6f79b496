"""Turns what a database says into the broker's errors, without repeating a value of a patient."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, TypeGuard

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from broker.errors import BrokerError, Conflict, DatabaseUnavailable, DuplicateKey, InvalidValue, StorageFull

if TYPE_CHECKING:
    import psycopg


def translate_errors(engine: Engine) -> None:
    """Make every failed statement of an engine raise the broker's own error."""
    event.listen(engine, "handle_error", _translate)


def as_broker_error(error: SQLAlchemyError) -> BrokerError | None:
    """Answer the broker's error for one that is raised outside of statements; None for a mistake of ours."""
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("Every database connection is in use.")
    if isinstance(error, PendingRollbackError):
        return DatabaseUnavailable("The connection to the database was lost in this transaction.")
    if isinstance(error, DBAPIError) and error.orig is not None:
        return _of(error.orig)
    return None


def as_broker_error_of(error: Exception) -> Exception:
    """Answer what is to be raised for an error of a driver: the error itself where it is a mistake of ours."""
    translated = _of(error)
    if _is_psycopg(error):
        from broker.db.postgresql_errors import plain

        # The original stays reachable as the cause of ours, and a traceback prints it.
        error.args = (plain(error),)
    return translated or error


def _translate(context: ExceptionContext) -> BrokerError | None:
    if context.is_pre_ping:
        return None  # the pool throws the dead connection away and opens another
    original = context.original_exception
    translated = as_broker_error_of(original) if isinstance(original, Exception) else None
    return translated if isinstance(translated, BrokerError) else None


def _is_psycopg(error: BaseException) -> TypeGuard[psycopg.Error]:
    """Tell whose error it is by its name: psycopg is loaded where there is PostgreSQL, and nowhere else."""
    return any(kind.__module__ == "psycopg" and kind.__name__ == "Error" for kind in type(error).__mro__)


def _of(error: BaseException) -> BrokerError | None:
    if _is_psycopg(error):
        from broker.db.postgresql_errors import of_postgresql

        return of_postgresql(error)
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error)
    if isinstance(error, OverflowError):
        return InvalidValue("A number is too large to be stored.")
    if isinstance(error, UnicodeEncodeError):
        return InvalidValue("A text holds half a character and cannot be stored.")
    return None


def _of_sqlite(error: sqlite3.Error) -> BrokerError | None:
    code = getattr(error, "sqlite_errorname", "") or type(error).__name__
    if isinstance(error, sqlite3.IntegrityError):
        # SQLite names columns, never values.
        if code in {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}:
            return DuplicateKey(f"A record with this key exists ({error}).")
        return Conflict(f"The database refuses the record ({error}).")
    if code == "SQLITE_FULL":
        return StorageFull("The database's disk is full.")
    if code == "SQLITE_TOOBIG" or isinstance(error, sqlite3.DataError):
        return InvalidValue("A value is too large to be stored.")
    if isinstance(error, sqlite3.ProgrammingError | sqlite3.NotSupportedError) or code == "SQLITE_ERROR":
        return None  # wrong SQL or an unmigrated file: waiting does not heal it
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        # Still unavailable, so that every sender keeps what it has; but no waiting heals it.
        return DatabaseUnavailable(f"The database file is corrupt ({code}): restore a backup.")
    return DatabaseUnavailable(f"The database does not answer ({code}).")
