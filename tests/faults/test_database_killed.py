"""What was said to be stored is stored, whole, whenever the process is killed; and each commit is synced before it is said."""

import re
import shutil
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import func, select

from broker.db.engine import open_engine, reading
from broker.db.schema import EVENT, ORDER, PATIENT, PROCEDURE, STEP, STEP_STATION
from tests.postgres import missing

COMMAND = [sys.executable, "-m", "tests.faults.committing"]


@pytest.mark.parametrize("after_s", [0.02, 0.11, 0.23])
def test_killed_at_any_moment_every_order_is_whole_and_none_that_was_acknowledged_is_lost(
    database_url, after_s
):
    said = []
    for start in (0, 1_000_000):
        process = subprocess.Popen(
            [*COMMAND, database_url, str(start), "100000"], stdout=subprocess.PIPE, text=True
        )
        said += [process.stdout.readline().split()[1] for _ in range(2)]
        killer = threading.Timer(after_s, process.kill)
        killer.start()
        said += [line.split()[1] for line in process.stdout if line.endswith("\n")]
        killer.join()
        process.wait()
        process.stdout.close()
        assert process.returncode == -9
    assert len(said) > 2
    engine = open_engine(database_url)
    wait_for_the_dead(engine)
    with reading(engine) as connection:
        ids = set(connection.execute(select(PATIENT.c.patient_id)).scalars())
        assert {f"PID{number}" for number in said} <= ids
        assert len(ids) - len(said) <= 2, "at most the commit in flight may have been kept without being said"
        for table in (ORDER, PROCEDURE, STEP, STEP_STATION, EVENT):
            count = connection.execute(select(func.count()).select_from(table)).scalar_one()
            assert count == len(ids), table.name
    engine.dispose()


def wait_for_the_dead(engine):
    """PostgreSQL may still be ending the transaction of a killed client."""
    if engine.dialect.name == "postgresql":
        for _ in range(100):
            with reading(engine) as connection:
                others = connection.exec_driver_sql(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                ).scalar_one()
            if others == 0:
                return
            time.sleep(0.02)


@pytest.mark.peer
def test_every_commit_is_synced_before_it_is_said(sqlite_url, tmp_path):
    if shutil.which("strace") is None:
        missing("strace")
    trace = tmp_path / "trace"
    done = subprocess.run(
        [
            "strace",
            "-f",
            "-e",
            "trace=fdatasync,fsync,write",
            "-o",
            str(trace),
            *COMMAND,
            sqlite_url,
            "0",
            "10",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Operation not permitted" in done.stderr:
        missing("the right to trace a process")
    assert done.stdout.count("stored") == 10, done.stderr
    synced, said = False, 0
    for line in trace.read_text().splitlines():
        if re.search(r"f(data)?sync\(\d+\)\s+= 0", line):
            synced = True
        elif '"stored' in line:
            assert synced, f"commit {said} was said before it was synced"
            synced = False
            said += 1
    assert said == 10
