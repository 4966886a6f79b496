"""Fixtures every test may ask for: time, wake-ups, certificates, and databases of both kinds, new for each test."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from broker.db.engine import open_engine
from broker.db.migrate import migrate
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.workflow.unit_of_work import UnitsOfWork
from tests.fakes.clock import FakeClock
from tests.fakes.task_queue import RecordingTaskQueue
from tests.postgres import administer, postgres_server

# In CI the same examples every time, or a commit would be judged by luck; elsewhere new ones.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")

# pynetdicom brings programs named storescp and findscu; in an activated environment they would stand in for DCMTK's.
os.environ["PATH"] = os.pathsep.join(
    folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != Path(sys.prefix, "bin")
)

_numbers = itertools.count(1)
BOTH_DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport]:
    """Let nothing skip in CI: a peer that is missing there is a failure, however its test says so."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skips, and CI tests everything: {report.longrepr}"
    return report


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue() -> RecordingTaskQueue:
    return RecordingTaskQueue()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file: copied, it is a new database in a millisecond."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    path = tmp_path / "data" / "broker.sqlite3"
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a PostgreSQL server: the one CI started, else one of this session's own."""
    given = os.environ.get("BROKER_TEST_POSTGRES")
    if given:
        yield given
        return
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres: str) -> Iterator[str]:
    """Name of a migrated, empty database to copy."""
    name = f"template_{os.getpid()}"
    administer(postgres, f"CREATE DATABASE {name}")
    engine = open_engine(make_url(postgres).set(database=name).render_as_string(hide_password=False))
    migrate(engine)
    engine.dispose()
    yield name
    administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres: str, postgres_template: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{next(_numbers)}"
    administer(postgres, f"CREATE DATABASE {name} TEMPLATE {postgres_template}")
    yield make_url(postgres).set(database=name).render_as_string(hide_password=False)
    administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=BOTH_DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """Address of a migrated, empty database, of each kind in turn."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a new database, of each kind in turn."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(sqlite_url: str) -> Iterator[Engine]:
    """An engine on a new SQLite file: for tests of what does not depend on the kind of database."""
    engine = open_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def uow_factory(engine: Engine, queue: RecordingTaskQueue, clock: FakeClock) -> UnitsOfWork:
    """Opens units of work, on each kind of database in turn."""
    return SqlUnitsOfWork(engine, queue, clock)


@pytest.fixture
def sqlite_uow_factory(sqlite_engine: Engine, queue: RecordingTaskQueue, clock: FakeClock) -> UnitsOfWork:
    """Opens units of work on SQLite."""
    return SqlUnitsOfWork(sqlite_engine, queue, clock)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an authority and a certificate for each side."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test Authority"),
    )
    for name, extension in (
        ("broker", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("ct1", "subjectAltName=DNS:ct1"),
    ):
        (folder / f"{name}.ext").write_text(extension)
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr"),
            *("-subj", f"/O=Radiology/CN={name.upper()}"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-out", f"{name}.pem", "-extfile", f"{name}.ext"),
        )
    return folder
