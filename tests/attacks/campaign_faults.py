"""Faults beside failpoints: each breaks one thing under load, mends it, and waits until all is well again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import psutil

from tests.attacks.campaign_services import (
    Postgres,
    Redis,
    empty_valkey,
    end_leases,
    full,
    is_sqlite_lock_free,
    sqlite_locked,
    stopped,
)
from tests.attacks.campaign_site import PATIENCE_S, SENDING, Siege
from tests.broker_process import RunningBroker, wait_until

Fault = Callable[[Siege, random.Random], None]


def kill_one(siege: Siege, chance: random.Random) -> None:
    """SIGKILL one process of a broker, at any moment."""
    time.sleep(chance.uniform(0.0, 1.5))
    running = chance.choice(siege.brokers)
    siege.ledger.crash("one", sending=SENDING)
    victim = chance.choice(psutil.Process(running.process.pid).children())
    victim.kill()
    siege.serves_again(time.monotonic(), what="one process killed")


def kill_all(siege: Siege, chance: random.Random) -> None:
    """SIGKILL a whole broker at any moment, and start it as its service manager does."""
    time.sleep(chance.uniform(0.0, 1.0))
    running = chance.choice(siege.brokers)
    siege.ledger.crash("all", sending=SENDING)
    running.kill()
    killed_s = time.monotonic()
    running.launch()
    siege.serves_again(killed_s, what="a broker killed")


def end_in_order(siege: Siege, chance: random.Random) -> None:
    """SIGTERM under load, then a new start: nothing may have been sent twice for that."""
    time.sleep(chance.uniform(0.0, 0.5))
    running = chance.choice(siege.brokers)
    code = running.stop()
    if code != 0:
        siege.seen.findings.append(f"SIGTERM under load ended with {code}")
    ended_s = time.monotonic()
    running.launch()
    siege.serves_again(ended_s, what="SIGTERM")


def freeze_one(siege: Siege, chance: random.Random) -> None:
    """Stop one role for a while, shorter than its lease."""
    role = chance.choice(["hl7", "dicom", "worker", "sweep", "web"])
    with stopped(chance.choice(siege.brokers).pids(role)[-1:]):
        time.sleep(chance.uniform(0.3, 1.5))
    siege.serves_again(time.monotonic(), what=f"{role} frozen")


def freeze_past_the_lease(siege: Siege, chance: random.Random) -> None:
    """Stop a worker between the peer's answer and its note of it, until its lease is over; then let it go on."""
    running, arm = siege.broker, siege.armed[0] / "deliver.after_first_send"
    siege.ledger.crash("frozen past the lease", sending=SENDING)
    told = arm.with_suffix(".told")
    told.write_text("SIGSTOP")
    told.rename(arm)
    pid = wait_until(lambda: _stopped_child(running), timeout_s=PATIENCE_S, what="a frozen worker")
    try:
        # One that was stopped while another of its threads was writing holds SQLite's lock: it is let go at once.
        if is_sqlite_lock_free(running.data_dir):
            end_leases(running.data_dir)
            siege.serves_again(time.monotonic(), what="a worker frozen past its lease")
    finally:
        os.kill(pid, signal.SIGCONT)
    siege.serves_again(time.monotonic(), what="a frozen worker that came back")


def _stopped_child(running: RunningBroker) -> int | None:
    for child in psutil.Process(running.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() == psutil.STATUS_STOPPED:
                return child.pid
    return None


def valkey_killed(siege: Siege, chance: random.Random) -> None:
    """SIGKILL the bundled Valkey; the supervisor starts it again."""
    time.sleep(chance.uniform(0.0, 0.5))
    pid = _valkey(siege)
    os.kill(pid, signal.SIGKILL)
    siege.serves_again(time.monotonic(), what="Valkey killed")


def _valkey(siege: Siege) -> int:
    pids = wait_until(lambda: siege.broker.pids("valkey"), timeout_s=PATIENCE_S, what="Valkey")
    return int(pids[-1])


def valkey_emptied(siege: Siege, chance: random.Random) -> None:
    """FLUSHALL."""
    time.sleep(chance.uniform(0.0, 0.2))
    empty_valkey(siege.broker.data_dir)
    siege.serves_again(time.monotonic(), what="Valkey emptied")


def valkey_frozen(siege: Siege, chance: random.Random) -> None:
    """Stop the bundled Valkey for a while; nobody waits for it."""
    pid = _valkey(siege)
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    with stopped(family):
        frozen_s = time.monotonic()
        time.sleep(chance.uniform(0.5, 1.0))
        siege.serves_again(frozen_s, what="Valkey frozen")


def sqlite_held(siege: Siege, chance: random.Random) -> None:
    """Hold the write lock from outside for a while."""
    siege.ledger.ambiguous("SQLite locked", sending=SENDING)
    with sqlite_locked(siege.broker.data_dir):
        time.sleep(chance.uniform(0.3, 3.0))
    siege.serves_again(time.monotonic(), what="SQLite locked")


def disk_full(siege: Siege, chance: random.Random) -> None:
    """Fill the disk to the last block, and free it."""
    siege.ledger.ambiguous("disk full", sending=SENDING)
    with full(siege.broker.data_dir):
        time.sleep(chance.uniform(1.0, 2.0))
    siege.serves_again(time.monotonic(), what="disk full")


def redis_faults(server: Redis) -> dict[str, Fault]:
    """Answer what is done to a Redis."""

    def absent(siege: Siege, chance: random.Random) -> None:
        """Kill it, do without for a while, start an empty one."""
        with server.absent():
            gone_s = time.monotonic()
            time.sleep(chance.uniform(0.0, 2.0))
            siege.serves_again(gone_s, what="Redis absent")
        siege.serves_again(time.monotonic(), what="Redis empty again")

    def emptied(siege: Siege, chance: random.Random) -> None:
        """FLUSHALL."""
        time.sleep(chance.uniform(0.0, 0.2))
        server.empty()
        siege.serves_again(time.monotonic(), what="Redis emptied")

    def frozen(siege: Siege, chance: random.Random) -> None:
        """Stop it for a while."""
        with server.frozen():
            frozen_s = time.monotonic()
            time.sleep(chance.uniform(0.5, 2.0))
            siege.serves_again(frozen_s, what="Redis frozen")

    return {"absent": absent, "emptied": emptied, "frozen": frozen}


def postgres_faults(server: Postgres) -> dict[str, Fault]:
    """Answer what is done to a PostgreSQL."""

    def restarted(siege: Siege, chance: random.Random) -> None:
        """Restart it as after a crash."""
        time.sleep(chance.uniform(0.0, 0.5))
        siege.ledger.ambiguous("PostgreSQL restarted", sending=SENDING)
        server.restart()
        siege.serves_again(time.monotonic(), what="PostgreSQL restarted")

    def dropped(siege: Siege, chance: random.Random) -> None:
        """Cut every connection."""
        time.sleep(chance.uniform(0.0, 0.5))
        siege.ledger.ambiguous("connections dropped", sending=SENDING)
        server.drop_connections()
        siege.serves_again(time.monotonic(), what="connections dropped")

    def frozen(siege: Siege, chance: random.Random) -> None:
        """Stop it for a while."""
        siege.ledger.ambiguous("PostgreSQL frozen", sending=SENDING)
        with server.frozen():
            time.sleep(chance.uniform(0.5, 3.0))
        siege.serves_again(time.monotonic(), what="PostgreSQL frozen")

    return {"restarted": restarted, "dropped": dropped, "frozen": frozen}
