"""Turns what psycopg says into the broker's errors; loaded when psycopg has said something.

PostgreSQL quotes the offending values in its messages (`Key (patient_id)=(4711) already exists`), so nothing of
its text is kept: the SQLSTATE and the name of the constraint say enough.
"""

from __future__ import annotations

import psycopg

from broker.errors import BrokerError, Conflict, DatabaseUnavailable, DuplicateKey, InvalidValue, StorageFull

_DISK_FULL = "53100"
_UNIQUE = "23505"


def plain(error: psycopg.Error) -> str:
    """Say what happened without a value."""
    constraint = error.diag.constraint_name
    name = type(error).__name__
    return f"{name} {error.sqlstate or ''} {constraint or ''}".rstrip()


def of_postgresql(error: psycopg.Error) -> BrokerError | None:
    """Answer the broker's error; None for a mistake of ours."""
    if isinstance(error, psycopg.IntegrityError):
        constraint = error.diag.constraint_name or "a constraint"
        if error.sqlstate == _UNIQUE:
            return DuplicateKey(f"A record with this key exists ({constraint}).")
        return Conflict(f"The database refuses the record ({constraint}).")
    if isinstance(error, psycopg.DataError):
        return InvalidValue(f"A value cannot be stored ({plain(error)}).")
    if isinstance(error, psycopg.ProgrammingError | psycopg.NotSupportedError):
        return None
    if error.sqlstate == _DISK_FULL:
        return StorageFull("The database's disk is full.")
    return DatabaseUnavailable(f"The database does not answer ({plain(error)}).")
