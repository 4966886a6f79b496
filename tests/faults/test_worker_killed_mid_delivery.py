"""Workers are killed, frozen and stopped in the middle of a delivery; the receiver keeps the ledger."""

import contextlib
import os
import signal
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from broker.domain.delivery import DeliveryState
from broker.queue import CeleryQueue
from tests.broker_process import wait_until
from tests.faults.bench import Bench, wake

S = DeliveryState


@pytest.fixture
def bench(database_url, tmp_path):
    bench = Bench(tmp_path, database_url)
    bench.valkey.start()
    yield bench
    bench.close()


@pytest.fixture
def sqlite_bench(sqlite_url, tmp_path):
    bench = Bench(tmp_path, sqlite_url)
    bench.valkey.start()
    yield bench
    bench.close()


@pytest.mark.timeout(400)
def test_a_killed_workers_delivery_is_finished_by_another_with_exactly_what_is_missing(bench):
    bench.settings = {"lease_s": 90}  # which nobody waits for: the sweep sees that the worker is dead
    key = bench.owe(20)
    bench.receiver.hold_at = 8
    first = bench.start("worker")
    queue = CeleryQueue(bench.redis_url)
    queue.wake([wake(key)])
    queue.close()
    assert bench.receiver.held.wait(60), bench.logs()
    bench.until(lambda: bench.row(key).items_delivered == 7, within_s=30)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    bench.receiver.hold_at = None
    bench.receiver.go_on.set()
    bench.start("worker")
    bench.start("sweep")
    bench.until(lambda: bench.row(key).state is S.DELIVERED, within_s=60)
    counts = bench.receiver.counts()
    assert len(counts) == 20
    # Only the one whose answer nobody heard may have come twice: the receiver knows it by its UID.
    assert sum(counts.values()) <= 21
    assert bench.row(key).attempt == 2


@pytest.mark.timeout(400)
def test_what_must_not_repeat_waits_for_a_person_when_its_worker_is_killed(sqlite_bench):
    bench = sqlite_bench
    key = bench.owe(3, destination="film", kind="print")
    bench.receiver.hold_at = 2
    worker = bench.start("worker")
    queue = CeleryQueue(bench.redis_url)
    queue.wake([wake(key, "print")])
    queue.close()
    assert bench.receiver.held.wait(60), bench.logs()
    bench.start("sweep")  # not before: it does itself what no worker takes in time
    os.kill(worker.pid, signal.SIGKILL)
    bench.receiver.go_on.set()
    bench.until(lambda: bench.row(key).state is S.DEAD, within_s=60)
    assert "check" in bench.row(key).reason
    assert max(bench.receiver.counts().values()) == 1


@pytest.mark.timeout(400)
def test_a_frozen_worker_that_comes_back_changes_nothing(sqlite_bench):
    bench = sqlite_bench
    key = bench.owe(6)
    bench.receiver.hold_at = 3
    frozen = bench.start("worker")
    queue = CeleryQueue(bench.redis_url)
    queue.wake([wake(key)])
    queue.close()
    assert bench.receiver.held.wait(60), bench.logs()
    freeze_outside_of_a_transaction(frozen.pid, bench.url)
    bench.receiver.hold_at = None
    bench.receiver.go_on.set()
    bench.start("sweep")
    bench.start("worker")
    bench.until(lambda: bench.row(key).state is S.DELIVERED, within_s=60)
    before, rows = bench.row(key), bench.rows()
    os.kill(frozen.pid, signal.SIGCONT)
    bench.until(lambda: "left to another worker" in bench.logs(), within_s=60)
    assert bench.row(key) == before
    assert bench.rows() == rows
    assert len(bench.receiver.counts()) == 6
    assert frozen.poll() is None


def thread_states(pid):
    return [
        stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ]


def freeze_outside_of_a_transaction(pid, url):
    """Stop a process while it does not hold SQLite's write lock: a stopped writer stops everybody."""
    database = make_url(url).database
    while True:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all(state == "T" for state in thread_states(pid)), what="every thread stopped")
        try:
            with contextlib.closing(sqlite3.connect(database, timeout=0.2, isolation_level=None)) as look:
                look.execute("BEGIN IMMEDIATE")
                look.execute("ROLLBACK")
                return
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout(400)
def test_a_stopped_worker_gives_back_what_it_has_not_sent(sqlite_bench):
    bench = sqlite_bench
    bench.receiver.delay_s = 0.05
    key = bench.owe(2000)
    worker = bench.start("worker")
    queue = CeleryQueue(bench.redis_url)
    queue.wake([wake(key)])
    queue.close()
    bench.until(lambda: bench.row(key).items_delivered >= 5, within_s=60)
    worker.terminate()
    assert worker.wait(60) == 0, bench.logs()
    row = bench.row(key)
    assert row.state is S.PENDING
    assert row.failures == 0
    assert row.items_delivered == len(bench.receiver.lines) < 2000
