"""A PostgreSQL server of the tests' own, with its durable defaults."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url


def pg_bin() -> Path | None:
    """Answer the folder of the newest PostgreSQL on this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def missing(what: str) -> None:
    """Skip for want of a peer; fail in CI, where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI tests everything", pytrace=False)
    pytest.skip(f"{what} is not installed")


def _fast_folder() -> str:
    """In memory where there is room: a database for each test is many synced files."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 2 * 1024**3 else "/tmp"


@contextmanager
def postgres_server(*settings: str) -> Iterator[str]:
    """Run a cluster on a unix socket, answer the address of its maintenance database."""
    binaries = pg_bin()
    if binaries is None:
        missing("PostgreSQL")
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=_fast_folder()))
    as_user: dict[str, str | int] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        as_user = {"user": "postgres", "group": "postgres"}
    data = folder / "data"

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **as_user)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)

    try:
        run(
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-A",
            "trust",
            "-U",
            "broker",
            "-E",
            "UTF8",
            "--no-sync",
        )
        options = f"-c listen_addresses='' -k {folder} -c max_connections=100 -c fsync=on"
        options += "".join(f" -c {setting}" for setting in settings)
        pg_ctl = str(binaries / "pg_ctl")
        # The server must not inherit our pipes: `capture_output` would wait for it to end.
        run(pg_ctl, "-s", "-w", "-D", str(data), "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://broker@/postgres?host={folder}"
        finally:
            run(pg_ctl, "-s", "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def restart(url: str, *, mode: str = "fast") -> None:
    """Restart a server of ours, cutting every connection; `immediate` is as after a crash."""
    folder = Path(str(make_url(url).query["host"]))
    binaries = pg_bin()
    assert binaries is not None
    command = [str(binaries / "pg_ctl"), "-s", "-w", "-D", str(folder / "data"), "-l", str(folder / "log")]
    as_user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    subprocess.run([*command, "-m", mode, "restart"], cwd=folder, check=True, **as_user)


def as_libpq(url: str) -> str:
    """Write a SQLAlchemy address as libpq reads it."""
    return url.replace("postgresql+psycopg://", "postgresql://")


def administer(url: str, *statements: str) -> None:
    """Run statements outside of a transaction."""
    with psycopg.connect(as_libpq(url), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
