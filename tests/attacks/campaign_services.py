"""What a broker leans on, to be broken: a Redis, a PostgreSQL, SQLite's lock, a disk of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import redis
from sqlalchemy.engine import make_url

from broker.queue import embedded_socket
from tests.broker_process import wait_until
from tests.peers import answers, program
from tests.ports import free_port
from tests.postgres import administer, missing, restart


class Redis:
    """A Redis server that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty."""
        self._process = subprocess.Popen(
            [program("redis-server"), "--port", str(self.port), "--dir", str(self._folder), "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        answers(self.port)

    def kill(self) -> None:
        """SIGKILL, frozen or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def absent(self) -> Iterator[None]:
        """Have none while the block lasts, and an empty one afterwards."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it while the block lasts."""
        assert self._process is not None
        with stopped([self._process.pid]):
            yield

    def empty(self) -> None:
        """FLUSHALL."""
        with redis.Redis(port=self.port) as client:
            client.flushall()


def empty_valkey(data_dir: Path) -> None:
    """FLUSHALL in the bundled server, as soon as it is there: it may have just been killed."""

    def emptied() -> bool:
        with redis.Redis(unix_socket_path=str(embedded_socket(data_dir))) as client:
            try:
                return bool(client.flushall())
            except redis.ConnectionError:
                return False

    wait_until(emptied, timeout_s=60, what="an emptied Valkey")


class Postgres:
    """A PostgreSQL server of `tests.postgres`, and one database in it."""

    def __init__(self, address: str, *, database: str = "campaign") -> None:
        self._address, self._database = address, database
        self._folder = Path(str(make_url(address).query["host"]))
        administer(address, f"CREATE DATABASE {database}")
        self.url = make_url(address).set(database=database).render_as_string(hide_password=False)

    def restart(self) -> None:
        """Restart as after a crash: every connection is cut, the log is read back."""
        restart(self._address, mode="immediate")

    def drop_connections(self) -> None:
        """Terminate the backend of every client of the database."""
        administer(
            self._address,
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._database}'",
        )

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the server and all its backends while the block lasts."""
        first = psutil.Process(int((self._folder / "data" / "postmaster.pid").read_text().split()[0]))
        with stopped([first.pid, *(child.pid for child in first.children(recursive=True))]):
            yield


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """SIGSTOP processes while the block lasts; those that end meanwhile are nobody's loss."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def sqlite_locked(data_dir: Path) -> Iterator[None]:
    """Hold SQLite's write lock, as a careless program on the same machine does."""
    path = data_dir / "broker.sqlite3"
    with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


def is_sqlite_lock_free(data_dir: Path) -> bool:
    """Tell whether somebody else could write now."""
    path = data_dir / "broker.sqlite3"
    with contextlib.closing(sqlite3.connect(path, timeout=0.3, isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        other.execute("ROLLBACK")
        return True


def end_leases(data_dir: Path) -> None:
    """Let whoever holds deliveries be somebody who has ended: nobody waits here for a lease that is not renewed."""
    path = data_dir / "broker.sqlite3"
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as other, other:
        other.execute(
            "UPDATE delivery SET worker = worker || '0' WHERE worker IS NOT NULL"  # of another start time
        )


@contextlib.contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[None]:
    """Mount a small file system in memory on a folder while the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        missing("the right to mount a small disk")
    try:
        yield
    finally:
        until_s = time.monotonic() + 30
        while subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode:
            assert time.monotonic() < until_s, f"{folder} stays mounted"
            time.sleep(0.2)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill the disk of a folder to the last block while the block lasts."""
    ballast = folder / "ballast"
    try:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        yield
    finally:
        ballast.unlink(missing_ok=True)
