"""Starts what a fault test breaks: a receiver, Valkey, workers and sweepers as processes."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.queue import embedded_socket, redis_url
from broker.valkey import EmbeddedValkey
from broker.workflow.clock import SystemClock
from broker.workflow.wake_ups import Task, WakeUp
from tests.builders import a_delivery, an_instance
from tests.fakes.task_queue import RecordingTaskQueue

ROOT = Path(__file__).parents[2]


class Receiver:
    """Answers each line with OK; keeps a ledger; may be slow, or hold an answer until told."""

    def __init__(self):
        self.lines: list[str] = []
        self.delay_s = 0.0
        self.hold_at: int | None = None
        self.held = threading.Event()
        self.go_on = threading.Event()
        ledger = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    ledger.lines.append(line.decode().strip())
                    if ledger.hold_at == len(ledger.lines):
                        ledger.held.set()
                        ledger.go_on.wait(60)
                    time.sleep(ledger.delay_s)
                    try:
                        self.wfile.write(b"OK\n")
                    except OSError:
                        return

        socketserver.ThreadingTCPServer.daemon_threads = True
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def counts(self) -> Counter[str]:
        return Counter(line.split()[0] for line in self.lines)

    def close(self):
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()


class Bench:
    """One broker's processes around one database."""

    def __init__(self, folder: Path, url: str):
        self.folder = folder
        self.url = url
        self.receiver = Receiver()
        self.engine = open_engine(url)
        self.clock = SystemClock()
        self.units_of_work = SqlUnitsOfWork(self.engine, RecordingTaskQueue(), self.clock)
        self.valkey = EmbeddedValkey(folder, embedded_socket(folder))
        self.redis_url = redis_url(folder)
        self.settings = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self._numbers = iter(range(1, 100_000))

    def start(self, role: str, **settings: object) -> subprocess.Popen[bytes]:
        values = {
            "database_url": self.url,
            "redis_url": self.redis_url,
            "port": self.receiver.port,
            **self.settings,
            **settings,
        }
        path = self.folder / f"{role}-{len(self.processes)}.json"
        path.write_text(json.dumps(values))
        log = path.with_suffix(".log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.a_worker", role, str(path)], cwd=ROOT, stdout=log, stderr=log
        )
        self.processes.append(process)
        return process

    def owe(self, images: int = 1, **changes: object) -> int:
        number, now = next(self._numbers), self.clock.now()
        with self.units_of_work() as uow:
            key = uow.deliveries.add(a_delivery(number, due_at=now, created_at=now, **changes), now=now)
            new = [an_instance(next(self._numbers)) for _ in range(images)]
            uow.deliveries.add_items(key, uow.instances.add_many(new))
            uow.commit()
        return key

    def rows(self):
        with self.engine.connect() as connection:
            return connection.exec_driver_sql(
                "SELECT id, state, attempt, items, items_delivered FROM delivery"
            ).fetchall()

    def row(self, key: int):
        with self.units_of_work() as uow:
            return uow.deliveries.get(key)

    def states(self) -> Counter[str]:
        return Counter(row[1] for row in self.rows())

    def until(self, condition, *, within_s: float, what: str = "") -> float:
        began_s = time.monotonic()
        while not condition():
            if time.monotonic() - began_s > within_s:
                raise AssertionError(f"not within {within_s} s: {what} {self.states()}\n{self.logs()}")
            time.sleep(0.02)
        return time.monotonic() - began_s

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log"))
        )

    def close(self):
        self.receiver.go_on.set()
        for process in self.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.wait()
        if self.valkey.pid is not None:
            os.kill(self.valkey.pid, signal.SIGCONT)
        self.valkey.stop()
        self.receiver.close()
        self.engine.dispose()


def wake(key: int, kind: str = "dicom") -> WakeUp:
    return WakeUp(Task.DELIVER, key, kind)
