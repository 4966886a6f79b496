"""A hospital under siege: brokers that are broken, the load on them, their receivers, and the books outside."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from broker.dicom_role import echo
from broker.failpoints import VARIABLE
from tests.broker_process import RunningBroker
from tests.ledger.check import check, quiesce
from tests.ledger.hospital import a_site
from tests.ledger.ledger import ACKNOWLEDGED, ENDED, IMAGE, MESSAGE, RECEIVED, STARTED, Ledger
from tests.ledger.load import Load
from tests.ledger.receivers import RisReceiver, StorageReceiver
from tests.ledger.rows import Rows
from tests.ledger.sent import may_be_sent_again

SENDING = 6
"""Three destinations, two deliveries at once to each: what a worker that dies may have been sending."""
PATIENCE_S = 60.0
"""Whoever does not serve by then does not come back by itself."""
Counts = tuple[int, ...]
MESSAGES, IMAGES, REPORTS, SENT = range(4)
"""Places in the counts: what was acknowledged of each kind, and what receivers got."""


@dataclass(slots=True)
class Seen:
    """What a kind of fault came to."""

    faults: int = 0
    answering_s: list[float] = field(default_factory=list)
    """From a fault to the next acknowledged message, image and report."""
    sending_s: list[float] = field(default_factory=list)
    """From a fault to the next thing that a receiver got."""
    findings: list[str] = field(default_factory=list)

    def figures(self, goal_s: float) -> str:
        """Answer the times in words."""
        if not self.answering_s:
            return ""
        answering, sending = sorted(self.answering_s), sorted(self.sending_s)
        late = sum(took_s > goal_s for took_s in answering)
        return (
            f"answering again after {_median(answering):.1f} s, at most {answering[-1]:.1f} s"
            f" (goal {goal_s:.0f} s, {late} of {len(answering)} later);"
            f" sending again after {_median(sending):.1f} s, at most {sending[-1]:.1f} s"
        )


class Siege:
    """One database and one data directory, one or more brokers on them, load and books."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        environment: dict[str, str] | None = None,
        brokers: int = 1,
        scanners: int = 1,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seed, self._scanners = folder, seed, scanners
        self.ledger = Ledger(folder / "ledger")
        self._receivers = [
            StorageReceiver(self.ledger, "archive"),
            StorageReceiver(self.ledger, "cad"),
            RisReceiver(self.ledger),
        ]
        archive, cad, ris = (receiver.port for receiver in self._receivers)
        self.brokers: list[RunningBroker] = []
        self.armed: list[Path] = []
        for number in range(brokers):
            place, arms = folder / f"b{number}", folder / f"arms{number}"
            place.mkdir()
            arms.mkdir()
            self.armed.append(arms)
            running = RunningBroker(
                place, a_site(archive=archive, cad=cad, ris=ris), {**(environment or {}), VARIABLE: str(arms)}
            )
            running.data_dir = folder / "data"
            self.brokers.append(running)
        self._loads: list[Load] = []
        self.seen = Seen()

    @property
    def broker(self) -> RunningBroker:
        """The first of the brokers."""
        return self.brokers[0]

    def start(self) -> None:
        """Start the brokers, then the load, and wait until everything flows."""
        for running in self.brokers:
            running.start()
        self.load()
        self.serves_again(time.monotonic(), what="a start")

    def load(self) -> None:
        """Let the hospital work."""
        for running in self.brokers:
            self.seed += 1
            self._loads.append(
                Load(
                    self.ledger,
                    hl7=running.hl7,
                    dicom=running.dicom,
                    seed=self.seed,
                    scanners=self._scanners,
                    pause_s=0.05,
                    patience_s=20.0,
                ).start()
            )

    def serves_again(self, since_s: float, *, what: str) -> None:
        """Wait until everything is acknowledged and sent again, and note how long it took since an instant."""
        before = self.counts()
        answered = self._within(
            lambda: self._ports_answer() and self.goes_on((MESSAGES, IMAGES, REPORTS), before)
        )
        if answered is None:
            self.seen.findings.append(f"{what}: nothing was acknowledged for {PATIENCE_S:.0f} s")
            return
        self.seen.answering_s.append(answered - since_s)
        sent = self._within(lambda: self.goes_on((SENT,), before))
        if sent is None:
            self.seen.findings.append(f"{what}: nothing was sent for {PATIENCE_S:.0f} s")
            return
        self.seen.sending_s.append(sent - since_s)

    def balance(self, *, goes_on: bool = False) -> None:
        """End the load, wait until nothing is left to do, and compare the books with the broker."""
        loads, self._loads = self._loads, []
        for load in loads:
            load.stop()
        url = self.broker.database_url
        unfinished = quiesce(url, within_s=PATIENCE_S)
        if unfinished:
            self.seen.findings += unfinished + _still_open(url)
        self.seen.findings += check(self.ledger, url, self.broker.data_dir)[:20]
        if goes_on:
            self.load()

    def end(self) -> None:
        """Balance, and stop everything in order."""
        try:
            self.balance()
            for running in self.brokers:
                code = running.stop()
                if code != 0:
                    self.seen.findings.append(f"SIGTERM ended with {code}")
        finally:
            self.close()

    def close(self) -> None:
        """Leave nothing behind."""
        for running in self.brokers:
            if running.process is not None and running.process.poll() is None:
                running.kill()
        for load in self._loads:
            with suppress(AssertionError):  # what broke first is what is to be told
                load.stop()
        for receiver in self._receivers:
            receiver.close()
        self.ledger.close()

    def acknowledged(self) -> int:
        """Answer how many things were acknowledged."""
        return self.ledger.count(ACKNOWLEDGED)

    def may_be_sent_again(self) -> int:
        """Answer how many things the tries that were cut off so far may have sent again."""
        with Rows(self.broker.database_url) as rows:
            return sum(may_be_sent_again(self.ledger, rows, with_items=kind) for kind in (True, False))

    def sent_again(self) -> int:
        """Answer how many things a receiver got more than once."""
        got = [(entry.kind, entry.id) for entry in self.ledger.entries(RECEIVED)]
        return len(got) - len(set(got))

    def goes_on(self, what: Sequence[int], before: Counts) -> bool:
        """Answer whether all of that went on since; one of each may have been on its way when it broke."""
        now = self.counts()
        return all(now[place] > before[place] + 1 for place in what)

    def counts(self) -> Counts:
        """Answer what the books have of each kind."""
        count = self.ledger.count
        return (
            count(ACKNOWLEDGED, MESSAGE),
            count(ACKNOWLEDGED, IMAGE),
            count(ACKNOWLEDGED, STARTED, ENDED),
            count(RECEIVED),
        )

    def _ports_answer(self) -> bool:
        return all(_answers(running) for running in self.brokers)

    @staticmethod
    def _within(condition: Callable[[], bool]) -> float | None:
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > until_s:
                return None
            time.sleep(0.02)
        return time.monotonic()


def _still_open(url: str) -> list[str]:
    """Say what a delivery waits for, of each destination and state."""
    with Rows(url) as rows:
        return [
            f"{row['count']} {row['state']} to {row['destination']} (worker {row['worker']}, failures"
            f" {row['failures']}, due {row['due_at']}, lease {row['lease_until']}, {row['reason']};"
            f" destination {row['health']}, left alone until {row['open_until']})"
            for row in rows.all(
                "SELECT count(*) AS count, d.state, d.destination, min(d.worker) AS worker, max(d.failures) AS"
                " failures, min(d.due_at) AS due_at, min(d.lease_until) AS lease_until, min(d.reason) AS reason,"
                " min(s.state) AS health, min(s.open_until) AS open_until FROM delivery d"
                " LEFT JOIN destination_state s ON s.name = d.destination"
                " WHERE d.state IN ('COLLECTING', 'PENDING', 'IN_PROGRESS') GROUP BY d.state, d.destination"
            )
        ]


def _answers(running: RunningBroker) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", running.hl7), timeout=5):
            pass
        echo("127.0.0.1", running.dicom, "BROKER")
    except Exception:  # whatever a dying listener does to its peer: it does not serve
        return False
    return True


def _median(values: list[float]) -> float:
    return values[len(values) // 2]
