"""Opens databases for worklist tests: a SQLite file, and a PostgreSQL server of our own where there is one."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import SQLModel

from broker.db import order_tables
from broker.db.engine import open_engine
from broker.db.transaction import Transaction
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.dicom.objects.answers import WorklistEncoder
from broker.domain.orders import WorklistEntry
from broker.workflow.wake_ups import WakeUp

POSTGRESQL = Path("/usr/lib/postgresql/15/bin")
assert order_tables.StepRow.__tablename__


class StillClock:
    """Stands still until a test moves it."""

    def __init__(self, now: datetime = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)) -> None:
        self.instant = now

    def now(self) -> datetime:
        return self.instant

    def local_now(self) -> datetime:
        return self.instant.astimezone(timezone(timedelta(hours=1)))

    def monotonic(self) -> float:
        return self.instant.timestamp()


class NoQueue:
    """Keeps wake-ups for a test to see."""

    def __init__(self) -> None:
        self.wake_ups: list[WakeUp] = []

    def wake(self, wake_ups) -> None:
        self.wake_ups.extend(wake_ups)


@contextlib.contextmanager
def sqlite_engine(folder: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{folder / 'test.sqlite3'}")
    SQLModel.metadata.create_all(engine)
    yield engine
    engine.dispose()


@contextlib.contextmanager
def postgresql_engine() -> Iterator[Engine | None]:
    """Start a server for the length of a test module; nothing where PostgreSQL is not installed."""
    if not (POSTGRESQL / "initdb").exists() or os.geteuid() != 0 or not _has_user("postgres"):
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="wl-pg-"))
    shutil.chown(folder, "postgres")
    as_postgres = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    subprocess.run(
        [
            *as_postgres,
            POSTGRESQL / "initdb",
            "-D",
            data,
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        ],
        check=True,
        capture_output=True,
    )
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    subprocess.run(
        [*as_postgres, POSTGRESQL / "pg_ctl", "-D", data, "-w", "-o", options, "-l", folder / "log", "start"],
        check=True,
        capture_output=True,
    )
    engine = open_engine(f"postgresql://postgres@/postgres?host={folder}")
    try:
        SQLModel.metadata.create_all(engine)
        yield engine
    finally:
        engine.dispose()
        subprocess.run(
            [*as_postgres, POSTGRESQL / "pg_ctl", "-D", data, "-m", "immediate", "stop"],
            check=False,
            capture_output=True,
        )
        shutil.rmtree(folder, ignore_errors=True)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def units_of_work(engine: Engine, clock=None, queue=None) -> SqlUnitsOfWork:
    return SqlUnitsOfWork(engine, queue or NoQueue(), clock or StillClock())


def store(engine: Engine, *entries: WorklistEntry, clock=None) -> list[WorklistEntry]:
    """Store entries with new ids; those of one patient number share the patient, and so on."""
    clock = clock or StillClock()
    encoder = WorklistEncoder()
    stored = []
    patients, orders, procedures = {}, {}, {}
    with units_of_work(engine, clock)() as uow:
        for entry in entries:
            patient = patients.get(entry.patient.id)
            if patient is None:
                patient = patients[entry.patient.id] = uow.patients.add(entry.patient, now=clock.now())
            order = orders.get(entry.order.id)
            if order is None:
                order = orders[entry.order.id] = uow.orders.add(
                    replace(entry.order, patient=patient.id), now=clock.now()
                )
            procedure = procedures.get(entry.procedure.id)
            if procedure is None:
                procedure = procedures[entry.procedure.id] = uow.orders.add_procedure(
                    replace(entry.procedure, order=order.id), now=clock.now()
                )
            whole = WorklistEntry(patient, order, procedure, replace(entry.step, procedure=procedure.id))
            step = uow.steps.add(whole, elements=encoder.encode(whole), now=clock.now())
            stored.append(replace(whole, step=step))
        uow.commit()
    return stored


def clear(engine: Engine) -> None:
    transaction = Transaction(engine)
    for table in reversed(SQLModel.metadata.sorted_tables):
        transaction.execute(table.delete())
    transaction.commit()
