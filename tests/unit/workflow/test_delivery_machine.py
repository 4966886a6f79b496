"""Two workers, a sweep, crashes, a clock that jumps: nothing is lost, lied about, or sent twice without a crash."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import update

from broker.db.engine import open_engine
from broker.db.repositories.deliveries import SqlDeliveries
from broker.db.schema import DELIVERY
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.domain.delivery import Delivered, DeliveryState, ItemState, Rejected, RetryLater
from broker.errors import BrokerError
from broker.workflow.deliveries import deliver
from broker.workflow.destinations_port import ItemResult
from broker.workflow.lease_watch import LeaseWatch
from broker.workflow.operations import cancel, retry
from broker.workflow.sending import SendingLimits, Worker
from broker.workflow.sweep import SweepLimits, probe, sweep
from tests.builders import a_delivery, an_instance
from tests.fakes.clock import FakeClock
from tests.fakes.destination import FakeBroker, UnsafeDestination
from tests.fakes.task_queue import RecordingTaskQueue

STEPS = int(os.environ.get("BROKER_MACHINE_STEPS", "25"))
EXAMPLES = int(os.environ.get("BROKER_MACHINE_EXAMPLES", "40"))
ENDS = ["ok", "later", "raise", "crash", "crash", "zombie early", "zombie late", "meanwhile", "meanwhile"]
FINAL = {DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.CANCELLED}


class Crash(BaseException):
    """Kills a worker where it stands."""


class DeliveryMachine(RuleBasedStateMachine):
    """Drives real rows on SQLite with a fake clock and destinations that keep a ledger."""

    template: Path
    keys = Bundle("keys")

    @initialize()
    def open(self):
        self.folder = Path(
            tempfile.mkdtemp(prefix="machine", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        path = self.folder / "broker.sqlite3"
        shutil.copyfile(self.template, path)
        self.engine = open_engine(f"sqlite:///{path}")
        self.clock, self.queue = FakeClock(), RecordingTaskQueue()
        self.broker = FakeBroker(SqlUnitsOfWork(self.engine, self.queue, self.clock), self.clock)
        self.safe = self.broker.add("archive", safekeeping=True)
        self.unsafe = self.broker.add("film", UnsafeDestination(), concurrency=1)
        self.watch = LeaseWatch()
        self.numbers = iter(range(1, 100_000))
        self.ledger: dict[str, int] = {}
        self.excuses = 0
        self.repeatable: set[int] = set()
        self.done: set[int] = set()

    def teardown(self):
        if hasattr(self, "engine"):
            self.settle_down()
            self.engine.dispose()
            shutil.rmtree(self.folder)

    # ---- what happens

    @rule(
        target=keys,
        images=st.integers(1, 3),
        name=st.sampled_from(["archive", "film"]),
        taken=st.integers(0, 3),
        end=st.sampled_from([*ENDS, "lost"]),
    )
    def owe(self, images, name, taken, end):
        """Images are to be sent; the wake-up for them comes, or is lost."""
        now = self.clock.now()
        with self.broker.units_of_work() as uow:
            delivery = a_delivery(next(self.numbers), destination=name, created_at=now, due_at=now)
            key = uow.deliveries.add(delivery, now=now)
            new = [an_instance(next(self.numbers)) for _ in range(images)]
            uow.deliveries.add_items(key, uow.instances.add_many(new))
            uow.commit()
        if end != "lost":
            self.send(key, taken=taken, end=end)
        return key

    @rule(taken=st.integers(0, 3), end=st.sampled_from(ENDS), number=st.integers(0, 3))
    def wake_what_is_due(self, taken, end, number):
        """A wake-up arrives for something that waits."""
        with self.broker.units_of_work() as uow:
            due = uow.deliveries.due(now=self.clock.now(), limit=10)
        if due:
            self.send(due[number % len(due)][0], taken=taken, end=end)

    @rule(key=keys, taken=st.integers(0, 3), end=st.sampled_from(ENDS))
    def wake(self, key, taken, end):
        """A wake-up arrives, rightly, wrongly, or twice."""
        self.send(key, taken=taken, end=end)

    @rule()
    def sweep_and_work(self):
        self.sweep()

    @rule(seconds=st.integers(1, 200))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule(minutes=st.integers(0, 60))
    def the_wall_clock_is_set_forward(self, minutes):
        self.clock.jump(timedelta(minutes=minutes))

    @rule(key=keys)
    def somebody_retries(self, key):
        was_dead = self.row(key).state is DeliveryState.DEAD
        self.act(retry, key)
        if was_dead:
            self.repeatable.add(key)

    @rule(key=keys)
    def somebody_cancels(self, key):
        self.act(cancel, key)

    def act(self, operation, key):
        before = self.row(key)
        try:
            operation(key, self.broker.units_of_work, self.clock, actor="anna")
        except BrokerError:
            assert self.row(key) == before

    def send(self, key, *, taken=3, end="ok"):
        row = self.row(key)
        plugin = self.safe if row.destination == "archive" else self.unsafe

        def script(parcel, settled):
            items = iter(parcel.items)
            for _ in range(taken):
                item = next(items, None)
                if item is None:
                    return Delivered()
                self.ledger[item.sop_instance_uid] = self.ledger.get(item.sop_instance_uid, 0) + 1
                if end == "zombie early":
                    self.excuses += 1
                    self.freeze()
                settled([ItemResult(item.id, ItemState.DELIVERED)])
            if end == "crash":
                self.excuses += 1  # something arrived, and nobody could say so
                item = next(items, None)
                if item is not None:
                    self.ledger[item.sop_instance_uid] = self.ledger.get(item.sop_instance_uid, 0) + 1
                raise Crash
            self.caps_hold()
            if end == "meanwhile":
                self.another(row.destination)
            if end == "zombie late":
                self.excuses += 1  # a single image is settled with its delivery: nobody knows of it meanwhile
                self.freeze()
                return Rejected("late")
            if end == "raise":
                raise ValueError
            return RetryLater("refused") if end == "later" else Delivered()

        plugin.script = [script]
        self.count(plugin)
        try:
            deliver(key, self.broker, worker=Worker("w", SendingLimits(drain_s=-1)))
        except Crash:
            pass
        finally:
            plugin.script = []

    def another(self, name):
        """Let a second worker come while the first is at it."""
        with self.broker.units_of_work() as uow:
            due = uow.deliveries.next_due(name, now=self.clock.now())
        if due:
            self.send(due[0])

    def freeze(self):
        """Stop for longer than the lease, while others go on."""
        self.sweep()
        self.clock.advance(100)
        self.sweep()
        self.delivered_is_for_good()

    def count(self, plugin):
        """Let what is accepted outside of a script be in the ledger too."""

        def accept(parcel, settled):
            for item in parcel.items:
                self.ledger[item.sop_instance_uid] = self.ledger.get(item.sop_instance_uid, 0) + 1
                settled([ItemResult(item.id, ItemState.DELIVERED)])
            return Delivered()

        plugin.accept = accept

    def sweep(self):
        work = sweep(self.broker, limits=SweepLimits(), watch=self.watch, thorough=True)
        for name in work.probes:
            probe(name, self.broker, policy=SendingLimits().breaker)
        for wake_up in work.due:
            for plugin in (self.safe, self.unsafe):
                self.count(plugin)
            deliver(wake_up.id, self.broker, worker=Worker("sweep", SendingLimits(drain_s=-1)))
        return work

    # ---- what must hold

    def row(self, key):
        with self.broker.units_of_work() as uow:
            return uow.deliveries.get(key)

    def items(self):
        with self.engine.connect() as connection:
            return connection.exec_driver_sql(
                "SELECT i.sop_instance_uid, d.state, d.delivery, r.state, r.lease_until, r.destination"
                " FROM delivery_item d JOIN instance i ON i.id = d.instance JOIN delivery r ON r.id = d.delivery"
            ).fetchall()

    @invariant()
    def what_is_said_delivered_was_received(self):
        if not hasattr(self, "engine"):
            return
        for uid, item_state, _, state, lease, _ in self.items():
            if item_state == "DELIVERED":
                assert self.ledger.get(uid, 0) >= 1
            if state == "DELIVERED":
                assert item_state == "DELIVERED"
            assert (state == "IN_PROGRESS") == (lease is not None)

    @invariant()
    def caps_hold(self):
        if not hasattr(self, "engine"):
            return
        with self.engine.connect() as connection:
            busy = connection.exec_driver_sql(
                "SELECT destination, count(*) FROM delivery WHERE state = 'IN_PROGRESS' GROUP BY destination"
            )
            counts = {row[0]: row[1] for row in busy}
        assert counts.get("archive", 0) <= 2
        assert counts.get("film", 0) <= 1

    @invariant()
    def delivered_is_for_good(self):
        if not hasattr(self, "engine"):
            return
        now = {key for _, _, key, state, _, _ in self.items() if state == "DELIVERED"}
        assert self.done <= now
        self.done = now

    @invariant()
    def nothing_is_sent_twice_without_an_excuse(self):
        if hasattr(self, "engine"):
            assert sum(count - 1 for count in self.ledger.values()) <= self.excuses

    @invariant()
    def what_must_not_repeat_is_repeated_by_a_person_only(self):
        if hasattr(self, "engine"):
            for uid, _, key, _, _, name in self.items():
                assert name != "film" or key in self.repeatable or self.ledger.get(uid, 0) <= 1

    def settle_down(self):
        """When the faults stop, everything is done or waits for a person."""
        for _ in range(40):
            self.clock.advance(timedelta(minutes=31))
            self.sweep()
            states = {state for _, _, _, state, _, _ in self.items()}
            if states <= {state.value for state in FINAL}:
                break
        else:
            raise AssertionError(f"not settled: {states}")
        self.what_must_not_repeat_is_repeated_by_a_person_only()
        for uid, item_state, _, state, _, destination in self.items():
            if destination == "archive" and state == "DELIVERED":
                assert (item_state, self.ledger[uid] >= 1) == ("DELIVERED", True)


def run(examples=EXAMPLES, **more):
    quiet = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
    run_state_machine_as_test(
        DeliveryMachine,
        settings=settings(max_examples=examples, stateful_step_count=STEPS, **{**quiet, **more}),
    )


def test_claims_leases_settling_and_sweep_are_safe_and_live(sqlite_template):
    DeliveryMachine.template = sqlite_template
    run()


def no_fence(patch):
    """Any worker may say what became of a delivery, however late."""
    patch.setattr(SqlDeliveries, "renew", lambda *_, **__: True)
    patch.setattr(
        SqlDeliveries,
        "settle",
        lambda self, delivery, attempt, **values: (
            self._transaction.execute(
                update(DELIVERY)
                .where(DELIVERY.c.id == delivery)
                .values(state=values["state"].value, due_at=values["due_at"], lease_until=None)
            ).rowcount
            == 1
        ),
    )


def no_cap(patch):
    patch.setattr(SqlDeliveries, "in_progress", lambda *_: 0)


def unsafe_is_repeated(patch):
    patch.setattr(UnsafeDestination, "retry_safe", True)


def counts_nothing(patch):
    """Delivered is believed although items wait."""
    patch.setattr(SqlDeliveries, "count_waiting", lambda *_: 0)


def leases_never_run_out(patch):
    patch.setattr(LeaseWatch, "abandoned", lambda *_, **__: [])


@pytest.mark.parametrize("bug", [no_fence, no_cap, unsafe_is_repeated, counts_nothing, leases_never_run_out])
def test_the_machine_notices_a_planted_bug(bug, sqlite_template, monkeypatch):
    DeliveryMachine.template = sqlite_template
    bug(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017 - which invariant falls first is not the point
        run(200, database=None, phases=[Phase.generate], print_blob=False, derandomize=True)
