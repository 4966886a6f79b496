"""A Celery worker or a sweeper of a broker that knows one destination: a receiver behind a TCP port.

Run as `python -m tests.faults.a_worker worker|sweep SETTINGS.json`; the tests start, freeze and kill it.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.domain.delivery import Delivered, RetryLater, RetryPolicy, Unknown
from broker.errors import NotFound
from broker.queue import CeleryQueue
from broker.workflow.clock import SystemClock
from broker.workflow.destinations_port import CheckResult
from broker.workflow.progress import Progress
from broker.workflow.sending import DestinationEntry, SendingLimits
from tests.fakes.destination import FakeFiles
from workers.app import connect_signals, make_app, serve
from workers.desk import Desk
from workers.leases import LeaseRenewer
from workers.sweeper import Sweeper, SweeperLimits


class Line:
    """Sends one line per item and waits for the answer: a protocol small enough to look at."""

    kind: ClassVar[str] = "dicom"
    Options: ClassVar[type[BaseModel]] = BaseModel
    retry_safe: ClassVar[bool] = True

    def __init__(self, port, clock):
        self._port, self._clock = port, clock

    def check(self):
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=2).close()
        except OSError as error:
            return CheckResult(ok=False, detail=type(error).__name__)
        return CheckResult(ok=True, detail="connected")

    def send(self, parcel, settled):
        progress = Progress(settled, self._clock, batch_items=1)
        try:
            with (
                socket.create_connection(("127.0.0.1", self._port), timeout=30) as peer,
                peer.makefile("rwb") as stream,
            ):
                for item in parcel.items:
                    stream.write(f"{item.sop_instance_uid} {parcel.attempt}\n".encode())
                    stream.flush()
                    if not stream.readline():
                        return RetryLater("connection lost")
                    progress.deliver(item, wire_status="0000")
        except TimeoutError:
            return Unknown("no answer")
        except OSError as error:
            return RetryLater(type(error).__name__)
        finally:
            progress.flush()
        return Delivered()

    def close(self):
        """Keep nothing."""


class Printer(Line):
    """The same, but must not repeat."""

    kind: ClassVar[str] = "print"
    retry_safe: ClassVar[bool] = False


class TestBroker:
    """The wired broker of these tests."""

    def __init__(self, values):
        self.engine = open_engine(values["database_url"])
        self.clock = SystemClock()
        self.redis_url = values["redis_url"]
        self.queue = CeleryQueue(self.redis_url)
        self.units_of_work = SqlUnitsOfWork(self.engine, self.queue, self.clock)
        self.files = FakeFiles()
        self._entries = {
            name: DestinationEntry(
                name,
                plugin.kind,
                plugin(port, self.clock),
                retry=RetryPolicy(first=timedelta(seconds=1)),
                concurrency=values.get("concurrency", 2),
            )
            for name, plugin, port in (
                ("archive", Line, values["port"]),
                ("film", Printer, values["port"]),
                ("other", Line, values.get("other_port", values["port"])),
            )
        }

    def destination(self, name):
        if name not in self._entries:
            raise NotFound(name)
        return self._entries[name]

    def destination_names(self) -> Iterable[str]:
        return self._entries

    def destination_kinds(self) -> Sequence[str]:
        return ("dicom", "print")

    def chores(self):
        return ()

    def route(self, instance_ids):
        raise AssertionError("nothing is routed here")


def limits(values):
    return SendingLimits(lease=timedelta(seconds=values.get("lease_s", 2.5)), drain_s=1)


def run_worker(values):
    broker = TestBroker(values)

    @contextmanager
    def opened():
        yield broker

    desk = Desk(opened, limits=limits(values), leases=LeaseRenewer(interval_s=values.get("lease_s", 2.5) / 4))
    app = make_app(values["redis_url"], broker.destination_kinds(), desk)
    connect_signals(desk)
    return serve(app, threads=values.get("threads", 8))


def run_sweep(values):
    broker = TestBroker(values)
    sweeper = Sweeper(
        broker,
        limits=SweeperLimits(interval_s=0.5, overdue_s=values.get("overdue_s", 5), thorough_s=2),
        sending=limits(values),
    )
    # Before a thread exists that could be told instead of this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sweeper.start()
    signal.sigwait({signal.SIGTERM})
    sweeper.stop(10)
    return 0


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    sys.exit({"worker": run_worker, "sweep": run_sweep}[sys.argv[1]](given))
