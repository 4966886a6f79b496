"""The role `sweep`: every two seconds look for what is due, wake workers for it, or do it here.

While Redis does not answer, and for what no worker has taken for a while, this process sends and routes with
the same functions: a broker without Redis goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from broker.doorbell import DoorbellListener
from broker.errors import ConfigurationError
from broker.failpoints import failpoint
from broker.queue import RedisProbe
from broker.workflow.deliveries import places_of
from broker.workflow.lease_watch import LeaseWatch
from broker.workflow.sending import SendingLimits
from broker.workflow.sweep import Chore, SweepLimits, Work, probe, sweep
from broker.workflow.wake_ups import Task, TaskQueue, WakeUp
from workers.desk import Desk, WorkingBroker
from workers.owner import is_gone

log = structlog.get_logger()


class SweepingBroker(WorkingBroker, Protocol):
    """What the sweep needs of the wired broker."""

    @property
    def queue(self) -> TaskQueue:
        """Answer where wake-ups go."""
        ...

    @property
    def redis_url(self) -> str:
        """Answer the address of Redis."""
        ...

    def destination_kinds(self) -> Sequence[str]:
        """Answer the kinds that have a queue."""
        ...

    @property
    def doorbell_path(self) -> Path:
        """Answer where those ring who cannot publish."""
        ...

    def chores(self) -> Sequence[Chore]:
        """Answer what else is to be done from time to time."""
        ...


@dataclass(frozen=True, slots=True)
class SweeperLimits:
    """How often, and how much at once."""

    interval_s: float = 2.0
    thorough_s: float = 30.0
    overdue_s: float = 15.0
    """What is due so long although Redis answers is done here: its worker may be gone."""
    unheard_s: float = 3.0
    """The same while wake-ups lie in Redis untaken: no worker listens, or all are busy."""
    max_backlog: int = 500
    """Wake-ups nobody takes; more would only fill Redis."""
    threads: int = 16
    silent_s: float = 30.0
    """Longer without a finished sweep, and the role does not serve."""
    sweep: SweepLimits = field(default_factory=SweepLimits)


class Sweeper:
    """Sweeps in a thread of its own; sends and routes, where it must, in a bounded pool."""

    def __init__(
        self,
        broker: SweepingBroker,
        *,
        limits: SweeperLimits | None = None,
        sending: SendingLimits | None = None,
        backlog: Callable[[], int | None] | None = None,
        doorbell: Path | None = None,
        desk: Desk | None = None,
        pool: Executor | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` starts. With a `doorbell`, what is rung there is done at once.

        A simulation gives a desk, a pool and a time of its own.
        """
        self._broker = broker
        self._monotonic = monotonic
        self._limits = limits or SweeperLimits()
        self._sending = sending or SendingLimits()
        self._desk = desk or Desk(lambda: nullcontext(broker), limits=self._sending)
        self._backlog = backlog or RedisProbe(broker.redis_url, broker.destination_kinds()).backlog
        self._watch = LeaseWatch(lease=self._sending.lease)
        self._chores = tuple(broker.chores())
        self._chore_at_s = dict.fromkeys((chore.name for chore in self._chores), 0.0)
        self._chore_done_s = dict.fromkeys((chore.name for chore in self._chores), monotonic())
        self._stop = threading.Event()
        self._nudge = threading.Event()
        self._thread: threading.Thread | None = None
        self._bell = DoorbellListener(doorbell, self._do_here) if doorbell else None
        self._pool = pool or ThreadPoolExecutor(self._limits.threads, thread_name_prefix="sweep")
        self._lock = threading.Lock()
        self._running: set[Hashable] = set()
        self._first_seen_s: dict[WakeUp, float] = {}
        self._thorough_at_s = 0.0
        self._swept_at_s = monotonic()
        self._works_alone = False
        self._fails = False

    def start(self) -> None:
        """Begin to sweep, and to hear the doorbell where there is a place for it."""
        if self._bell is not None:
            try:
                self._bell.start()
            except (OSError, ConfigurationError) as error:  # the sweep looks by itself, too
                log.warning("no doorbell", reason=str(error))
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._thread.start()

    def nudge(self) -> None:
        """Sweep now: something was committed."""
        self._nudge.set()

    def stop(self, timeout_s: float) -> None:
        """End the current sweep, let what is being sent end with its current item."""
        self._stop.set()
        if self._bell is not None:
            self._bell.stop()
        self._nudge.set()
        self._desk.stop()
        until_s = time.monotonic() + timeout_s
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        while self._running and time.monotonic() < until_s:
            time.sleep(0.02)

    @property
    def alive(self) -> bool:
        """Answer whether the sweeping thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def prove(self) -> str:
        """Answer when the last sweep was finished.

        Raises RuntimeError when that, or a chore that must not be missed, is long ago.
        """
        now_s = self._monotonic()
        age_s = now_s - self._swept_at_s
        if age_s > self._limits.silent_s:
            raise RuntimeError(f"no sweep for {age_s:.0f} s")
        for chore in self._chores:
            undone_s = now_s - self._chore_done_s[chore.name]
            if chore.missed_after_s is not None and undone_s > chore.missed_after_s:
                raise RuntimeError(f"cannot {chore.name}, for {undone_s:.0f} s")
        return f"swept {age_s:.1f} s ago" + (", sending without Redis" if self._works_alone else "")

    def turn(self) -> Work:
        """Sweep once, and have done what was found."""
        now_s = self._monotonic()
        thorough = now_s - self._thorough_at_s >= self._limits.thorough_s or not self._thorough_at_s
        work = sweep(
            self._broker, limits=self._limits.sweep, watch=self._watch, is_gone=is_gone, thorough=thorough
        )
        failpoint("sweep.before_wake_up")
        if thorough:
            self._thorough_at_s = now_s
        wake_ups = [*work.due, *(WakeUp(Task.ROUTE, key) for key in work.unrouted[:1])]
        backlog = self._backlog()
        self._say_alone(backlog is None)
        if backlog is None:
            self._do_here(wake_ups)
        else:
            if backlog <= self._limits.max_backlog:
                self._broker.queue.wake(wake_ups)
            self._do_here(self._overdue(wake_ups, now_s, unheard=backlog > 0))
        for name in work.probes:
            self._submit(("probe", name), partial(self._probe, name))
        self._do_chores(self._chores)
        self._swept_at_s = self._monotonic()
        failpoint("sweep.after")
        return work

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.turn()
                if self._fails:
                    self._fails = False
                    log.info("sweeping again")
            except Exception as error:  # the database may be away; the sweep outlives it
                if not self._fails:
                    self._fails = True
                    log.error("sweep failed", defect=places_of(error))
                self._do_chores([chore for chore in self._chores if chore.without_database])
            self._nudge.wait(self._limits.interval_s)
            self._nudge.clear()

    def _do_chores(self, chores: Sequence[Chore]) -> None:
        now_s = self._monotonic()
        for chore in chores:
            if now_s - self._chore_at_s[chore.name] >= chore.every_s or not self._chore_at_s[chore.name]:
                self._chore_at_s[chore.name] = now_s
                self._submit(("chore", chore.name), partial(self._do_chore, chore))

    def _do_chore(self, chore: Chore) -> None:
        failpoint("sweep.before_chore")
        chore.run()
        self._chore_done_s[chore.name] = self._monotonic()
        failpoint("sweep.after_chore")

    def _overdue(self, wake_ups: Sequence[WakeUp], now_s: float, *, unheard: bool) -> list[WakeUp]:
        """Answer what has been due for long: nobody seems to listen."""
        self._first_seen_s = {one: self._first_seen_s.get(one, now_s) for one in wake_ups}
        patience_s = self._limits.unheard_s if unheard else self._limits.overdue_s
        return [one for one, seen_s in self._first_seen_s.items() if now_s - seen_s >= patience_s]

    def _do_here(self, wake_ups: Sequence[WakeUp]) -> None:
        for wake_up in wake_ups:
            if wake_up.task is Task.ROUTE:
                # Not one at a time by key: who comes while another decides leaves word, or it would wait a sweep.
                self._submit((Task.ROUTE, wake_up.id), partial(self._desk.route, wake_up.id))
            else:
                self._submit(wake_up.id, partial(self._desk.deliver, wake_up.id))

    def _probe(self, name: str) -> None:
        result = probe(name, self._broker, policy=self._sending.breaker)
        if result is not None:
            log.info("destination asked again", destination=name, ok=result.ok)
            self.nudge()

    def _submit(self, key: Hashable, job: Callable[[], object]) -> None:
        """Run a job in the pool unless the same is still running."""
        with self._lock:
            if key in self._running or self._stop.is_set():
                return
            self._running.add(key)

        def run() -> None:
            try:
                job()
            except Exception as error:  # the row is unchanged or its lease runs out: the next sweep finds it
                log.error("sweep job failed", job=str(key), defect=places_of(error))
            finally:
                with self._lock:
                    self._running.discard(key)

        self._pool.submit(run)

    def _say_alone(self, alone: bool) -> None:
        if alone != self._works_alone:
            self._works_alone = alone
            if alone:
                log.warning("redis does not answer, the sweep does the work")
            else:
                log.info("redis answers again")


def sweep_role(broker: SweepingBroker) -> Sweeper:
    """Answer the sweeper of a broker: the entry point `sweep` of `broker.roles`."""
    return Sweeper(broker, doorbell=broker.doorbell_path)
