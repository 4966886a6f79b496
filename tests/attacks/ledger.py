"""Bugs planted to see whether the ledger finds them: each in a short scenario with a fault, and the same without it.

A scenario answers what the checker found. Without a bug that must be nothing, with the bug something.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from broker.bootstrap import Broker, migrate_database, open_broker
from broker.dicom_role import dicom_server
from broker.workflow.sending import SendingLimits
from tests.attacks.outcome import Outcome
from tests.attacks.planted_bugs import BUGS, planted
from tests.attacks.power_cut import WRITES, TracedDisk, chances
from tests.attacks.system_calls import Call, read_calls, tracing
from tests.broker_process import ROOT
from tests.fakes.task_queue import RecordingTaskQueue
from tests.journeys.hl7_orders import orm
from tests.ledger.check import check, quiesce
from tests.ledger.hospital import a_site
from tests.ledger.ledger import ACKNOWLEDGED, IMAGE, MESSAGE, OFFERED, Entry, Ledger
from tests.ledger.lines import AssociationLine, MessageLine
from tests.ledger.modality import SOP_CLASSES, an_image
from tests.ledger.receivers import StorageReceiver
from tests.ports import free_port
from workers.desk import Desk
from workers.leases import LeaseRenewer
from workers.sweeper import Sweeper, SweeperLimits

SETTLED_WITHIN_S = 60.0
"""Liveness of a healthy broker in a scenario; one that lost its wake-ups and has no sweep is waited for less."""


@dataclass
class Bench:
    """A broker's folder, its site file and ports, and the ledger beside it."""

    folder: Path
    ports: dict[str, int] = field(
        default_factory=lambda: {
            name: free_port() for name in ("hl7", "dicom", "web", "archive", "cad", "ris")
        }
    )

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.data_dir = self.folder / "data"
        self.ledger = Ledger(self.folder / "ledger")
        site = a_site(archive=self.ports["archive"], cad=self.ports["cad"], ris=self.ports["ris"])
        site["listen"] = {name: {"port": self.ports[name]} for name in ("hl7", "dicom", "web")}
        self.config = self.folder / "broker.yaml"
        self.config.write_text(json.dumps(site))  # JSON is YAML
        migrate_database(self.config, self.data_dir)

    def url(self, data_dir: Path | None = None) -> str:
        return f"sqlite:///{(data_dir or self.data_dir) / 'broker.sqlite3'}"

    def check(self) -> list[str]:
        return check(self.ledger, self.url(), self.data_dir)

    def settle_and_check(self, within_s: float = SETTLED_WITHIN_S) -> list[str]:
        return quiesce(self.url(), within_s=within_s) + self.check()

    @contextmanager
    def process(
        self, *bugs: str, trace: Path | None = None, beside: Sequence[int] = ()
    ) -> Iterator[subprocess.Popen[str]]:
        """Run listeners in a process that may be killed, traced together with processes beside it."""
        command = [
            sys.executable,
            "-m",
            "tests.attacks.one_process",
            str(self.config),
            str(self.data_dir),
            *bugs,
        ]
        log = (self.folder / "process.log").open("ab")
        process = subprocess.Popen(
            tracing(trace, *command, beside=beside) if trace else command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            assert said[1:] == ["READY"], (self.folder / "process.log").read_text()[-2000:]
            yield process
        finally:
            _end(process, traced=trace is not None)
            log.close()

    @contextmanager
    def here(self) -> Iterator[Broker]:
        """Open the broker in this process, with a queue that loses every wake-up."""
        with open_broker(self.config, self.data_dir, role="dicom") as broker:
            broker.queue = RecordingTaskQueue()
            broker.units_of_work._queue = broker.queue
            yield broker

    def push(self, count: int, *, seed: int = 1, orders: bool = False) -> None:
        """Send images of one series one after the other, and an order before every third; all are acknowledged."""
        chance = random.Random(seed)
        series = f"1.2.826.0.1.3680043.10.1561.9.{seed}"
        images = AssociationLine(self.ports["dicom"], "CT1", [SOP_CLASSES["CT"]], 20)
        messages = MessageLine(self.ports["hl7"], 20)
        for number in range(count):
            if orders and number % 3 == 0:
                key, start = f"Q{seed}N{number}", "20261121083000"
                message = orm(accession=key, patient_id=key, message_id=key, start=start).encode()
                facts = {"accession": key, "control": "NW", "start": start}
                self.ledger.offered(MESSAGE, key, message, **facts)
                if messages.send(message) == "AA":
                    self.ledger.acked(MESSAGE, key, message, **facts)
            uid = f"{series}.{number}"
            data = an_image(
                uid,
                study=series,
                series=f"{series}.0",
                modality="CT",
                accession="",
                patient_id="P1",
                chance=chance,
            )
            facts = {"modality": "CT", "ordered": False}
            self.ledger.offered(IMAGE, uid, data, **facts)
            if images.store(uid, data, SOP_CLASSES["CT"]) == 0:
                self.ledger.acked(IMAGE, uid, data, **facts)
        images.close()
        messages.close()

    def fill(self, broker: Broker, count: int, seed: int) -> list[int]:
        """Receive images through a listener in this process and route them; answer the deliveries, due now."""
        server, close = dicom_server(broker, storage=True, others=False)
        server.start()
        try:
            self.push(count, seed=seed)
        finally:
            server.stop()
            close()
        with broker.units_of_work() as uow:
            undecided = uow.instances.undecided(count)
        broker.route(undecided)
        with broker.units_of_work() as uow:
            return [
                key
                for key, _ in uow.deliveries.due(now=broker.clock.now() + timedelta(seconds=30), limit=100)
            ]


def killed(bench: Bench, bug: str | None, seed: int, long: bool) -> list[str]:
    """Kill -9 right after an answer."""
    with bench.process(*([bug] if bug else [])) as process:
        bench.push(6, seed=seed, orders=True)
        process.kill()
        process.wait()
    with bench.here() as broker:
        _ = broker.files
        with StorageReceiver(bench.ledger, "archive", port=bench.ports["archive"]), _sweeping(broker):
            return bench.settle_and_check()


@dataclass(frozen=True)
class Recalled:
    """The ledger as it stood when the power went."""

    books: dict[str, list[Entry]]

    def entries(self, book: str) -> Iterator[Entry]:
        return iter(self.books.get(book, ()))

    def interrupted(self) -> int:
        return 0


def power_cut(bench: Bench, bug: str | None, seed: int, long: bool) -> list[str]:
    """Cut the power after every call that touched the disk and after every answer, in several ways each."""
    before, trace = bench.folder / "before", bench.folder / "trace"
    shutil.copytree(bench.data_dir, before)
    with bench.process(*([bug] if bug else []), trace=trace):
        bench.push(9 if long else 4, seed=seed, orders=True)
    acknowledged, offered = list(bench.ledger.entries(ACKNOWLEDGED)), list(bench.ledger.entries(OFFERED))
    assert len(acknowledged) == len(offered), "every thing of this scenario is sent once and acknowledged"
    disk, calls = TracedDisk(bench.data_dir, before), read_calls(trace)
    answers = [call.began for call in calls if _is_answer(call)]
    assert len(answers) == len(acknowledged), (len(answers), len(acknowledged))
    findings: list[str] = []
    chance = random.Random(seed)
    for call in calls:
        touched = disk.apply(call)
        if not _is_answer(call) and not (touched and _is_a_moment(call, long)):
            continue
        told = sum(began <= call.ended for began in answers)
        books = Recalled({ACKNOWLEDGED: acknowledged[:told], OFFERED: offered[: told + 1]})
        for number in range(16 if long else 4):
            names, contents = chances(number, chance)
            found = bench.folder / "found"
            disk.write_to(found, names=names, contents=contents)
            power_cut.states += 1
            findings += [f"after answer {told}: {one}" for one in _recovered(bench, found, books)]
            shutil.rmtree(found)
            if bug and findings:
                return findings
    return findings


power_cut.states = 0


def _is_answer(call: Call) -> bool:
    """Tell whether a call sends a C-STORE response or an HL7 acknowledgement."""
    return call.name in ("sendto", "sendmsg") and call.data[:1] in (b"\x04", b"\x0b")


def _is_a_moment(call: Call, long: bool) -> bool:
    """Tell whether the disk is looked at after a call: the next one that syncs or names loses its writes too."""
    if call.name in WRITES:
        return False
    if long or call.is_sync() or call.name.startswith(("rename", "link")):
        return True
    return "/incoming/" not in call.opened + "".join(call.paths)  # one of many files made ready


def _recovered(bench: Bench, data_dir: Path, books: Recalled) -> list[str]:
    """Start as after a power cut, without anything that sends, and check."""
    with open_broker(bench.config, data_dir, role="dicom") as broker:
        _ = broker.files
    return check(books, bench.url(data_dir), data_dir, lambda entry: frozenset())


def wake_ups_lost(bench: Bench, bug: str | None, seed: int, long: bool) -> list[str]:
    """Every wake-up is lost."""
    with bench.here() as broker, StorageReceiver(bench.ledger, "archive", port=bench.ports["archive"]):
        bench.fill(broker, 3, seed)
        with _sweeping(broker):
            return bench.settle_and_check(within_s=3.0 if bug else SETTLED_WITHIN_S)


def two_workers(bench: Bench, bug: str | None, seed: int, long: bool) -> list[str]:
    """Two workers are woken for the same delivery at once."""
    archive = StorageReceiver(bench.ledger, "archive", port=bench.ports["archive"])
    with bench.here() as one, bench.here() as other, archive:
        (delivery,) = bench.fill(one, 3, seed)
        _make_due(one)
        workers = [
            threading.Thread(target=_desk(broker).deliver, args=(delivery,)) for broker in (one, other)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(SETTLED_WITHIN_S)
        with _sweeping(one):
            return bench.settle_and_check()


def frozen(bench: Bench, bug: str | None, seed: int, long: bool) -> list[str]:
    """A worker is frozen past its lease and comes back when another has done its work."""
    go_on, held = threading.Event(), threading.Event()

    def answer(uid: str) -> int:
        if not held.is_set():
            held.set()
            go_on.wait(60)
        return 0x0000

    archive = StorageReceiver(bench.ledger, "archive", port=bench.ports["archive"], answer=answer)
    with bench.here() as one, bench.here() as other, archive:
        (delivery,) = bench.fill(one, 3, seed)
        _make_due(one)
        zombie = threading.Thread(target=_desk(one, lease_s=0.5).deliver, args=(delivery,))
        zombie.start()
        assert held.wait(SETTLED_WITHIN_S)
        bench.ledger.ambiguous("a worker is frozen")
        with _sweeping(other, lease_s=5.0):
            findings = quiesce(bench.url(), within_s=SETTLED_WITHIN_S)
            go_on.set()
            zombie.join(SETTLED_WITHIN_S)
            return findings + bench.settle_and_check()


def refused(bench: Bench, bug: str | None, seed: int, long: bool) -> list[str]:
    """The archive is away when the first try comes."""
    with bench.here() as broker:
        (delivery,) = bench.fill(broker, 3, seed)
        _make_due(broker)
        _desk(broker).deliver(delivery)
        with StorageReceiver(bench.ledger, "archive", port=bench.ports["archive"]), _sweeping(broker):
            return bench.settle_and_check()


@contextmanager
def _sweeping(broker: Broker, *, lease_s: float = 90.0) -> Iterator[None]:
    """Run a sweep that does the work itself, as without Redis; it takes back what nobody renews for so long."""
    sweeper = Sweeper(
        broker,
        limits=SweeperLimits(interval_s=0.1, thorough_s=1.0),
        sending=SendingLimits(lease=timedelta(seconds=lease_s)),
        backlog=lambda: None,
    )
    sweeper.start()
    try:
        yield
    finally:
        sweeper.stop(10)


def _desk(broker: Broker, *, lease_s: float = 90.0) -> Desk:
    limits = SendingLimits(lease=timedelta(seconds=lease_s), drain_s=0)
    return Desk(lambda: nullcontext(broker), limits=limits, leases=LeaseRenewer(interval_s=3600))


def _make_due(broker: Broker) -> None:
    """End the quiet periods now."""
    with broker.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE delivery SET state = 'PENDING', due_at = '2026-01-01 00:00:00.000000'"
        )


def _end(process: subprocess.Popen[str], *, traced: bool) -> None:
    """Kill a process; one under strace first, for it would outlive its tracer."""
    if traced and process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        for child in children:
            child.kill()
        # strace must see them end: told to end while threads of theirs are ending, it waits for them for ever.
        psutil.wait_procs(children, timeout=60)
    process.kill()  # strace has written each line when it came; it lets go of whom else it watches
    process.wait(60)


Scenario = Callable[[Bench, str | None, int, bool], list[str]]
SCENARIOS: dict[str, Scenario] = {
    "ack_before_commit": killed,
    "sqlite_normal": power_cut,
    "forgotten_folder_sync": power_cut,
    "no_sweep": wake_ups_lost,
    "rename_before_sync": power_cut,
    "double_claim": two_workers,
    "settled_by_a_zombie": frozen,
    "swallowed_send_error": refused,
}
"""Planted bug -> the scenario in which it does harm."""


def run(scenario: Scenario, bug: str | None, *, seed: int, long: bool, folder: Path) -> list[str]:
    """Answer what the checker finds in a scenario with or without a bug."""
    bench = Bench(folder)
    with planted(bug if scenario not in (killed, power_cut) else None):
        return scenario(bench, bug, seed, long)


def attack(seed: int, long: bool, folder: Path) -> Iterator[Outcome]:
    """Run each scenario without a bug, then with each of its bugs."""
    for scenario in dict.fromkeys(SCENARIOS.values()):
        power_cut.states = 0
        findings = run(scenario, None, seed=seed, long=long, folder=folder / scenario.__name__)
        cases = power_cut.states or 1
        yield Outcome(
            _told(scenario), cases, not findings, findings[0] if findings else "nothing found, rightly"
        )
    caught = 0
    for bug, scenario in SCENARIOS.items():
        findings = run(scenario, bug, seed=seed, long=long, folder=folder / bug)
        caught += bool(findings)
        seen = f"found: {findings[0]}" if findings else "not found"
        yield Outcome(f"planted: {_told(BUGS[bug])}", 1, bool(findings), seen)
    yield Outcome(
        "planted bugs", len(SCENARIOS), caught == len(SCENARIOS), f"{caught} of {len(SCENARIOS)} found"
    )


def _told(what: Callable[..., Any]) -> str:
    text = (what.__doc__ or "").partition("\n")[0].rstrip(".")
    return text[0].lower() + text[1:]
