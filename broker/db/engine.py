"""Opens the database so that a commit is durable, and proves it.

SQLite runs in WAL mode with `synchronous=FULL` (with NORMAL a commit is not synced at all) and begins every
writing transaction with BEGIN IMMEDIATE: one that read first and writes later fails at once, however long the
busy timeout. PostgreSQL is asked for its own settings.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

from broker.db.errors import as_broker_error_of, translate_errors
from broker.errors import ConfigurationError, DatabaseUnavailable

SQLITE_FILE = "broker.sqlite3"
_BUSY_STEP_S = 0.001
READ_ONLY = "broker_read_only"
"""Execution option of a connection that only reads: on SQLite it begins without taking the write lock."""

_READING_POSTGRESQL: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _to_json(value: Any) -> str:
    """Write a JSON column; most of them are empty, and `json.dumps` would make an encoder for every value."""
    if not value:
        if isinstance(value, dict):
            return "{}"
        if isinstance(value, list):
            return "[]"
    return _encode_json(value)


def database_url(data_dir: Path, configured: str | None = None) -> str:
    """Answer the address of the database: the configured one, else a file in the data directory."""
    return configured or f"sqlite:///{data_dir.absolute() / SQLITE_FILE}"


def parse_url(url: str) -> URL:
    """Read an address; `postgresql://` and `postgres://` mean psycopg 3. Raises ConfigurationError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        # The text may hold a password.
        raise ConfigurationError("the database address is not a URL", field="BROKER_DATABASE_URL") from None
    backend = "postgresql" if parsed.drivername == "postgres" else parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed.set(drivername="sqlite")
    raise ConfigurationError(
        "the database is postgresql://… or sqlite:///path/of/a/file", field="BROKER_DATABASE_URL"
    )


def open_engine(
    url: str,
    *,
    pool_size: int = 10,
    max_overflow: int = 10,
    pool_timeout_s: float = 30.0,
    busy_timeout_s: float = 30.0,
    connect_timeout_s: int = 5,
    idle_in_transaction_timeout_s: int = 60,
) -> Engine:
    """Open an engine for this process. Nothing is connected yet; a forked child starts with an empty pool."""
    parsed = parse_url(url)
    arguments: dict[str, Any]
    if parsed.get_backend_name() == "sqlite":
        _create_privately(Path(str(parsed.database)))
        arguments = {"timeout": busy_timeout_s, "check_same_thread": False}
    else:
        arguments = {
            "connect_timeout": connect_timeout_s,
            "application_name": "worklist-broker",
            # A frozen process must not hold its row locks for ever, nor a dead network its threads.
            "options": f"-c timezone=UTC -c lock_timeout={round(busy_timeout_s * 1000)}"
            f" -c idle_in_transaction_session_timeout={idle_in_transaction_timeout_s * 1000}",
            "keepalives_idle": 5,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
        }
    engine = create_engine(
        parsed,
        connect_args=arguments,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=pool_timeout_s,
        # The connection that has written last knows its pages: SQLite has every other read them again.
        pool_use_lifo=True,
        pool_pre_ping=parsed.get_backend_name() == "postgresql",
        pool_recycle=1800,
        hide_parameters=True,
        json_serializer=_to_json,
    )
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", partial(_begin_sqlite, busy_timeout_s))
        event.listen(engine, "reset", _end_sqlite)
    translate_errors(engine)
    _engines.add(engine)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection whose one transaction sees a single state of the database and writes nothing."""
    options = _READING_POSTGRESQL if engine.dialect.name == "postgresql" else {READ_ONLY: True}
    with engine.connect() as connection:
        yield connection.execution_options(**options)


def assert_durable(engine: Engine, *, accept_data_loss: bool = False) -> list[str]:
    """Read the settings back and answer what is wrong with them.

    Raises ConfigurationError naming the settings unless data loss is accepted: what the broker acknowledges
    must survive a power cut.
    """
    with reading(engine) as connection:
        problems = (
            _sqlite_problems(connection) if engine.dialect.name == "sqlite" else _pg_problems(connection)
        )
    if problems and not accept_data_loss:
        raise ConfigurationError(
            f"the database would lose acknowledged data: {'; '.join(problems)}", field="BROKER_DATABASE_URL"
        )
    return problems


def _sqlite_problems(connection: Connection) -> list[str]:
    problems = []
    journal_mode = connection.execute(text("PRAGMA journal_mode")).scalar_one()
    if journal_mode != "wal":
        problems.append(f"journal_mode is {journal_mode}, must be wal")
    synchronous = connection.execute(text("PRAGMA synchronous")).scalar_one()
    if synchronous < 2:  # 2 FULL, 3 EXTRA
        problems.append(f"synchronous is {synchronous}, must be 2 (FULL)")
    if connection.execute(text("PRAGMA foreign_keys")).scalar_one() != 1:
        problems.append("foreign_keys is off")
    return problems


def _pg_problems(connection: Connection) -> list[str]:
    allowed = {"fsync": {"on"}, "full_page_writes": {"on"}, "synchronous_commit": {"on", "remote_apply"}}
    problems = []
    for setting, values in allowed.items():
        found = connection.execute(text("SELECT current_setting(:name)"), {"name": setting}).scalar_one()
        if found not in values:
            problems.append(f"{setting} is {found}, must be on")
    return problems


class DataDirectoryLock:
    """Keeps a second `serve` off the same data directory; the command line does not take it."""

    NAME = "serve.lock"

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / self.NAME
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises ConfigurationError when another process holds it."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise ConfigurationError(
                f"another broker (process {holder or 'unknown'}) already serves {self._path.parent}"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._file = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back; the kernel does so too when the process dies."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def serving_process(data_dir: Path) -> int | None:
    """Answer the process of the `serve` that holds a data directory; None when there is none, or it cannot be seen."""
    try:
        descriptor = os.open(data_dir / DataDirectoryLock.NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        return int(holder) if holder.isdecimal() else None
    finally:
        os.close(descriptor)
    return None


def _create_privately(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver would begin deferred, and only before some statements
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "cache_size=-16384",
        "journal_size_limit=67108864",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(busy_timeout_s: float, connection: Connection) -> None:
    if connection.get_execution_options().get(READ_ONLY, False):
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite's own wait for another process's write grows to steps of 100 ms; a modality is not to wait for those.
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    deadline = time.monotonic() + busy_timeout_s
    try:
        driver.execute("PRAGMA busy_timeout=0")
        try:
            while not _try_begin(driver):
                if time.monotonic() >= deadline:
                    raise DatabaseUnavailable("The database is busy.")
                time.sleep(_BUSY_STEP_S)
        finally:
            driver.execute(f"PRAGMA busy_timeout={round(busy_timeout_s * 1000)}")
    except sqlite3.Error as error:
        raise as_broker_error_of(error) from None


def _try_begin(driver: sqlite3.Connection) -> bool:
    try:
        driver.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            return False
        raise
    return True


def _end_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry, _state: PoolResetState) -> None:
    # A COMMIT or ROLLBACK that failed may leave its transaction open, with its write lock and what it wrote, and
    # SQLAlchemy takes both for ended. A connection that cannot be rolled back here is closed by the pool.
    connection.rollback()


def _forget_inherited_connections() -> None:
    for engine in tuple(_engines):
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_inherited_connections)
