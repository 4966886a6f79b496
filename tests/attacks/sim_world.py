"""A broker without time: processes, peers and wake-ups that break when told, around one real SQLite file."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar

from sqlalchemy import event

from broker.db.engine import open_engine
from broker.db.migrate import migrate
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.dicom.objects.header import known_keyword
from broker.domain.delivery import (
    Delivered,
    ItemState,
    Misconfigured,
    Rejected,
    RetryLater,
    Unknown,
)
from broker.domain.rules import compile_routes
from broker.errors import BrokerError, DatabaseUnavailable
from broker.workflow.destinations_port import CheckResult, ItemResult
from broker.workflow.routing import RoutedDestination, RoutingPolicy, purpose_of, route
from broker.workflow.sending import SendingLimits
from broker.workflow.wake_ups import WakeUp
from tests.attacks.sim_actors import Actor, Order, current, pause
from tests.builders import NOW
from tests.fakes.clock import FakeClock
from tests.fakes.destination import FakeBroker, FakeDestination
from workers.desk import Desk
from workers.sweeper import Sweeper

LIMITS = SendingLimits(page_items=2)
RENEW_EVERY_S = 20.0
CHUNK_S = 5
KINDS = {"archive": "dicom", "cad": "dicom", "film": "print"}
CONCURRENCY = {"archive": 2, "cad": 1, "film": 1}
ROUTES = [
    {"name": "to-archive", "when": {"Modality": ["CT", "US"]}, "send": ["archive"]},
    {"name": "to-cad", "when": {"Modality": "CT"}, "send": ["cad"]},
    {"name": "to-film", "when": {"Modality": "US"}, "send": ["film"]},
]
WANTED = {"CT": {"archive", "cad"}, "US": {"archive", "film"}, "OT": set()}
"""What the routes above mean, written down a second time: the check does not ask the router."""


class Peer(FakeDestination):
    """A destination that does what the world says just now, image by image."""

    kind: ClassVar[str] = "dicom"

    def __init__(self, name: str, world: World) -> None:
        super().__init__()
        self.name, self.world = name, world

    @property
    def mode(self) -> str:
        return self.world.modes.get(self.name, "takes")

    def check(self) -> CheckResult:
        return CheckResult(ok=self.mode not in ("is away", "is not configured"), detail=self.mode)

    def send(self, parcel, settled):
        actor = current()
        if actor is None:
            return self._send(parcel, settled)
        actor.is_sending = True
        outcome = self._send(parcel, settled)
        pause("everything has been sent")
        return outcome

    def _send(self, parcel, settled):
        rejected = 0
        for item in parcel.items:
            pause("an image is about to leave")
            mode = self.mode
            self.world.visits[f"peer {mode}"] += 1
            if mode == "is away":
                return RetryLater("no connection")
            if mode == "is not configured":
                return Misconfigured("calling AE title not recognized")
            if mode == "meets a defect":
                raise ValueError
            if mode == "refuses":
                rejected += 1
                settled([ItemResult(item.id, ItemState.REJECTED, "A900", "refused")])
                continue
            self.world.stored[self.name, item.instance] += 1
            if mode == "takes and is silent":
                self.world.excuse("ambiguous")
                return RetryLater("no answer") if self.retry_safe else Unknown("no answer")
            pause("an image is there, nobody has been told")
            settled([ItemResult(item.id, ItemState.DELIVERED, "0000")])
        return Rejected(f"{rejected} refused") if rejected else Delivered()


class Printer(Peer):
    """Must not be sent the same twice."""

    kind: ClassVar[str] = "print"
    retry_safe: ClassVar[bool] = False


class WakeUps:
    """Redis as it is at its worst: drops, doubles, and gives in any order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.waiting: list[WakeUp] = []
        self.mode = "keeps"

    def wake(self, wake_ups: Iterable[WakeUp]) -> None:
        pause("committed, nobody is awake")
        self.world.visits[f"wake-up: redis {self.mode}"] += 1
        if self.mode in ("keeps", "doubles"):
            self.waiting += [*wake_ups] * (2 if self.mode == "doubles" else 1)


class Leases:
    """Renews while a block runs, as the thread of `workers.leases` does, when the world lets time pass."""

    def __init__(self, world: World) -> None:
        self.world, self.clock = world, world.clock
        self.held: list[list[object]] = []
        self.given_up: list[partial[None]] = []

    def give_up(self, release: partial[None]) -> None:
        self.given_up.append(release)

    @contextmanager
    def __call__(self, renew: Callable[[], bool]) -> Iterator[None]:
        entry = [renew, self.clock.monotonic() + RENEW_EVERY_S]
        self.held.append(entry)
        try:
            yield
        finally:
            if entry in self.held:
                self.held.remove(entry)

    def renew_due(self) -> None:
        given_up, self.given_up = self.given_up, []
        for release in given_up:
            held = release.args[0]
            self.world.given_back.add((held.id, held.attempt))
            release()
            self.world.visits["given back"] += 1
        for entry in [one for one in self.held if one[1] <= self.clock.monotonic()]:
            entry[1] = self.clock.monotonic() + RENEW_EVERY_S
            if entry[0]():
                grip = entry[0].__self__
                self.world.renewed_s[grip.delivery, grip.attempt] = self.clock.monotonic()
            else:
                self.held.remove(entry)


class Inline(Executor):
    """Runs a job where it is submitted: a pool without threads."""

    def submit(self, job, /, *args, **kwargs):
        future: Future[object] = Future()
        future.set_result(job(*args, **kwargs))
        return future


@dataclass
class SimulatedBroker(FakeBroker):
    """What workers and sweepers need of the wired broker."""

    queue: WakeUps | None = None
    policy: RoutingPolicy | None = None
    redis_url: str = ""

    def route(self, instance_ids: Sequence[int]) -> object:
        with self.units_of_work() as uow:
            uow.lock("routing")
            routed = route(uow, instance_ids, self.policy, now=self.clock.now())
            uow.commit()
            return routed

    def chores(self):
        return ()

    def destination_kinds(self):
        return ()


class Process:
    """A worker or a sweeper: its memory is lost when it dies."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.frozen = False
        self.actors: list[Actor] = []
        self.boot()

    def boot(self) -> None:
        """Start anew, with nothing but the file."""
        world = self.world
        self.frozen = False
        self.leases = Leases(world)
        self.units = SqlUnitsOfWork(world.engine, world.queue, world.clock)
        self.broker = SimulatedBroker(self._unit, world.clock, queue=world.queue, policy=world.policy)
        for name in KINDS:
            peer = Printer(name, world) if name == "film" else Peer(name, world)
            self.broker.add(name, peer, safekeeping=name == "archive", concurrency=CONCURRENCY[name])
        self.desk = Desk(lambda: nullcontext(self.broker), limits=LIMITS, leases=self.leases)
        self.sweeper = Sweeper(
            self.broker,
            sending=LIMITS,
            backlog=lambda: None if world.queue.mode == "is down" else len(world.queue.waiting),
            desk=self.desk,
            pool=Inline(),
            monotonic=world.clock.monotonic,
        )
        self.look()

    def look(self) -> None:
        """See the clocks, as a living sweeper does every two seconds."""
        if not self.frozen:
            self.sweeper._watch.look(self.world.clock)

    def _unit(self):
        if pause("between two transactions") is Order.NO_DATABASE:
            raise DatabaseUnavailable("The database is away.")
        return self.units()

    def begin(self, job: Callable[[], object]) -> Actor:
        """Let a thread of it begin a job."""
        actor = Actor(job)
        self.actors.append(actor)
        return actor

    def go(self, actor: Actor, order: Order = Order.GO) -> None:
        """Let one of its threads take one step."""
        if order is Order.NO_DATABASE:
            if actor.at != "between two transactions":
                order = Order.GO
            elif actor.is_sending:
                self.world.excuse("no database")
        self.world.visits[f"step: {actor.at}"] += 1
        try:
            actor.go(order)
        except BrokerError:
            self.world.visits["a task gave up"] += 1
        self.actors = [one for one in self.actors if not one.done]

    def run_out(self, steps: int = 10_000) -> None:
        """Let its threads take so many steps in turn, or come to their ends."""
        while steps > 0 and self.actors:
            for actor in list(self.actors):
                self.go(actor)
                steps -= 1

    def die(self) -> None:
        """Die by SIGKILL, wherever its threads stand."""
        for actor in list(self.actors):
            self.world.visits[f"killed: {actor.at}"] += 1
            if actor.is_sending:
                self.world.excuse("crash")
            self.go(actor, Order.CRASH)
        self.boot()

    def freeze(self) -> None:
        """Stop without dying: what it holds may be taken from it, and it does not know."""
        self.frozen = True
        for actor in self.actors:
            if actor.is_sending:
                self.world.excuse("frozen")

    def thaw(self) -> None:
        """Go on as if nothing had happened."""
        self.frozen = False


class World:
    """Everything there is in one run."""

    def __init__(self, template: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="world", dir=_ram()))
        self.file = self.folder / "0.sqlite3"
        shutil.copyfile(template, self.file)
        self.lives = itertools.count(1)
        self.clock = FakeClock()
        self.queue = WakeUps(self)
        self.modes: dict[str, str] = {}
        self.stored: Counter[tuple[str, int]] = Counter()
        """What the peers hold: (destination, instance), how often. They lose nothing and forget nothing."""
        self.given_back: set[tuple[int, int]] = set()
        """Tries whose end could not be written: nobody waits for their leases."""
        self.renewed_s: dict[tuple[int, int], float] = {}
        """(delivery, attempt) → when its lease was renewed last, by a clock nobody sets."""
        self.excuses: Counter[str] = Counter()
        self.visits: Counter[str] = Counter()
        self.policy = policy()
        self.open()
        self.processes = [Process(self, name) for name in ("worker 1", "worker 2", "sweeper 1", "sweeper 2")]
        self.workers, self.sweepers = self.processes[:2], self.processes[2:]

    def open(self) -> None:
        self.engine = open_engine(f"sqlite:///{self.file}")
        event.listen(self.engine, "connect", lambda driver, _: driver.execute("PRAGMA synchronous=OFF"))
        self.units = SqlUnitsOfWork(self.engine, self.queue, self.clock)

    def close(self) -> None:
        for process in self.processes:
            for actor in process.actors:
                actor.go(Order.CRASH)
        self.engine.dispose()
        shutil.rmtree(self.folder)

    def power_cut(self) -> None:
        """Everything dies at once; what lies in the file and its log is all there is."""
        copied = self.folder / f"{next(self.lives)}.sqlite3"
        for suffix in ("", "-wal"):
            if (source := Path(f"{self.file}{suffix}")).exists():
                shutil.copyfile(source, f"{copied}{suffix}")
        before, self.file = self.engine, copied
        self.open()
        for process in self.processes:
            process.die()
        self.queue.waiting.clear()
        before.dispose()

    def excuse(self, why: str) -> None:
        """Note a fault after which one image may have to be sent again."""
        self.excuses[why] += 1

    def pass_time(self, seconds: float) -> None:
        """Let time pass; who lives renews leases meanwhile."""
        left = seconds
        while left > 0:
            step = min(left, CHUNK_S)
            left -= step
            self.clock.advance(step)
            for process in self.processes:
                if not process.frozen:
                    process.leases.renew_due()

    def set_clock(self, step: timedelta) -> None:
        """Set the wall clock; whoever lives sees it go another way than time."""
        for step_now in (timedelta(0), step):
            self.clock.jump(step_now)
            for process in self.processes:
                process.look()


@lru_cache
def policy() -> RoutingPolicy:
    """Answer the routes, compiled once: every run has the same."""
    destinations = {
        name: RoutedDestination(name, kind, purpose_of(kind, safekeeping=name == "archive"))
        for name, kind in KINDS.items()
    }
    return RoutingPolicy(compile_routes(ROUTES, known_keyword=known_keyword), 1, destinations)


def template(folder: Path) -> Path:
    """Make the file every run begins with."""
    path = folder / "template.sqlite3"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    clock = FakeClock()
    with SqlUnitsOfWork(engine, None, clock)() as uow:
        assert uow.decisions.record_configuration("1", str(ROUTES), by="simulation", now=NOW) == 1
        uow.commit()
    engine.dispose()
    return path


def _ram() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
