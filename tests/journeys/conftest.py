"""The product under test, once per module, on SQLite with the bundled Valkey and on PostgreSQL with Redis."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.broker_process import RunningBroker
from tests.journeys.browser import chromium  # noqa: F401
from tests.peers import MllpSink, answers, program
from tests.ports import free_port
from tests.postgres import administer

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """Address of a Redis: the one CI started (a database of it), else one of this module's own."""
    given = os.environ.get("BROKER_TEST_REDIS")
    if given:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        yield f"{given.rpartition('/')[0]}/{1 + int(worker) % 15}"
        return
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    process = subprocess.Popen(
        [program("redis-server"), "--port", str(port), "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    answers(port)
    yield f"redis://127.0.0.1:{port}/0"
    process.kill()
    process.wait()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def services(request):
    """Environment that chooses database and Redis."""
    if request.param == "sqlite":
        yield {}
        return
    postgres, redis = request.getfixturevalue("postgres"), request.getfixturevalue("redis")
    name = f"journey_{os.getpid()}_{next(_numbers)}"
    administer(postgres, f"CREATE DATABASE {name}")
    url = make_url(postgres).set(database=name).render_as_string(hide_password=False)
    yield {"BROKER_DATABASE_URL": url, "BROKER_REDIS_URL": redis}
    administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def ports(services):
    """Ports of the peers the site file names: an archive, a CAD, and one nobody listens on yet."""
    return {name: free_port() for name in ("archive", "cad", "late")}


@pytest.fixture(scope="module")
def ris(services):
    sink = MllpSink()
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def folder(services, tmp_path_factory):
    # Short: a Valkey socket lives in it.
    path = tmp_path_factory.mktemp("j")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def broker(services, ports, ris, folder):
    """A running `broker serve` with a small hospital's site file."""
    quick = {"first": "2s", "cap": "4s"}  # five failed tries would open the breaker for a minute
    site = {
        "site": {"name": "Journey Hospital", "timezone": "UTC", "ae_title": "BROKER"},
        "devices": [
            {"ae_title": "CT1", "modality": "CT"},
            {"ae_title": "CT2", "modality": "CT"},
            {"ae_title": "MR1", "modality": "MR"},
        ],
        "destinations": {
            "archive": {
                "kind": "dicom",
                "host": "127.0.0.1",
                "port": ports["archive"],
                "called_ae_title": "ARCHIVE",
                "safekeeping": True,
                "retry": quick,
            },
            "cad": {
                "kind": "dicom",
                "host": "127.0.0.1",
                "port": ports["cad"],
                "called_ae_title": "CAD",
                "retry": quick,
            },
            "late": {
                "kind": "dicom",
                "host": "127.0.0.1",
                "port": ports["late"],
                "called_ae_title": "LATE",
                "safekeeping": True,
                "retry": quick,
            },
            "copies": {"kind": "folder", "path": "copies"},
            "ris": {"kind": "mllp", "host": "127.0.0.1", "port": ris.port, "retry": quick},
        },
        "feedback": {"destination": "ris", "message": "ORM^O01"},
        "completion": {"series_quiet": "1s", "study_quiet": "2s", "cap": "1m"},
        "routes": [
            {
                "name": "chest-to-cad",
                "when": {"Modality": "CT", "order.accession_number": {"exists": True}},
                "send": ["cad"],
                "unit": "series",
            },
            {"name": "ct-to-archive", "when": {"Modality": ["CT", "MR"]}, "send": ["archive"]},
            {"name": "us-to-late", "when": {"Modality": "US"}, "send": ["late"]},
        ],
    }
    running = RunningBroker(Path(folder), site, services)
    try:
        yield running.start()
    finally:
        code = running.stop()
        print(running.tail(30))
    assert code == 0, "SIGTERM ends in order"
