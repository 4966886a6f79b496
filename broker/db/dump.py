"""Copies a whole database to one file and back: SQLite by its backup API, PostgreSQL by pg_dump and pg_restore."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.engine import URL

from broker.db.engine import open_engine, parse_url
from broker.errors import ConfigurationError, Conflict, DatabaseUnavailable

SQLITE_DUMP = "database.sqlite3"
POSTGRESQL_DUMP = "database.pgdump"


@contextmanager
def dumped(engine: Engine, folder: Path) -> Iterator[tuple[Path, Connection]]:
    """Write the dump into a folder; give its file and a connection that sees exactly what is in it."""
    if engine.dialect.name == "sqlite":
        path = folder / SQLITE_DUMP
        _dump_sqlite(engine, path)
        copy = create_engine(f"sqlite:///{path}")
        try:
            with copy.connect() as connection:
                yield path, connection
        finally:
            copy.dispose()
        return
    path = folder / POSTGRESQL_DUMP
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        # The dump and what is read here share one snapshot, whatever is committed meanwhile.
        snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        # Dumping takes as long as it takes; this transaction only waits.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        _run("pg_dump", engine.url, ["--format=custom", f"--snapshot={snapshot}", f"--file={path}"])
        yield path, connection


def load(url: str, dump: Path) -> None:
    """Fill an empty database from a dump. Raises Conflict when it is not empty."""
    assert_empty(url)
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        _load_sqlite(Path(str(parsed.database)), dump)
    else:
        arguments = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
        _run("pg_restore", parsed, [*arguments, f"--dbname={parsed.database}", str(dump)])


def assert_empty(url: str) -> None:
    """Raise Conflict when a database holds anything."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(str(parsed.database))
        if path.exists() and path.stat().st_size:
            raise Conflict(f"{path} exists: a backup is only put into an empty place")
        return
    engine = open_engine(url)
    try:
        if tables := inspect(engine).get_table_names():
            raise Conflict(f"the database has {len(tables)} tables: a backup is only put into an empty one")
    finally:
        engine.dispose()


def is_dump_for(url: str, dump: Path) -> bool:
    """Tell whether a dump was made of the kind of database an address names."""
    wanted = SQLITE_DUMP if parse_url(url).get_backend_name() == "sqlite" else POSTGRESQL_DUMP
    return dump.name == wanted


def _dump_sqlite(engine: Engine, path: Path) -> None:
    source = sqlite3.connect(f"file:{engine.url.database}?mode=ro", uri=True, timeout=30)
    with closing(source), closing(sqlite3.connect(path)) as copy:
        source.backup(copy)  # all pages in one step: in WAL mode nobody waits
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, not three
        (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise DatabaseUnavailable(f"the copy of the database is damaged: {verdict}")


def _load_sqlite(path: Path, dump: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    shutil.copyfile(dump, part)
    part.chmod(0o600)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    for leftover in ("-wal", "-shm"):
        path.with_name(path.name + leftover).unlink(missing_ok=True)
    part.replace(path)


def _run(program: str, url: URL, arguments: Sequence[str]) -> None:
    """Run a PostgreSQL client; who and where go by the environment, which `ps` does not show."""
    environment = {**os.environ}
    host, port = url.query.get("host", url.host), url.query.get("port", url.port)
    for name, value in (
        ("PGHOST", host),
        ("PGPORT", port),
        ("PGUSER", url.username),
        ("PGPASSWORD", url.password),
        ("PGDATABASE", url.database),
        ("PGSSLMODE", url.query.get("sslmode")),
        ("PGSSLROOTCERT", url.query.get("sslrootcert")),
    ):
        if value:
            environment[name] = str(value)
    done = subprocess.run(
        [_program(program), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        first = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise DatabaseUnavailable(f"{program} failed: {first[:200]}")


def _program(name: str) -> str:
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which(name)
    if found is None:
        raise ConfigurationError(f"{name} is needed for PostgreSQL and is not installed here")
    return found
