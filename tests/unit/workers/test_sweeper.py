"""Who does the work: a worker that is woken, or the sweep itself."""

import threading
import time
from datetime import timedelta

import pytest

from broker.domain.delivery import DeliveryState, RetryLater
from broker.errors import DatabaseUnavailable
from broker.workflow.images_port import InstanceState
from broker.workflow.sweep import Chore
from broker.workflow.wake_ups import Task
from tests.builders import a_delivery, an_instance
from tests.fakes.destination import FakeBroker
from workers.sweeper import Sweeper, SweeperLimits

S = DeliveryState


class SweptBroker(FakeBroker):
    """Adds what the sweep needs."""

    def with_(self, queue, chores=()):
        self.queue, self._chores = queue, chores
        return self

    def chores(self):
        return self._chores

    def route(self, instance_ids):
        self.routed.extend(instance_ids)
        with self.units_of_work() as uow:
            for key in instance_ids:
                uow.instances.decide(key, self.routed_state, order=None)
            uow.commit()


class Turns:
    """A sweep taken turn by turn."""

    def __init__(self, units_of_work, clock, queue):
        self.broker = SweptBroker(units_of_work, clock).with_(queue)
        self.archive = self.broker.add("archive")
        self.queue, self.clock = queue, clock
        self.backlog: int | None = 0
        self.numbers = iter(range(1, 1000))
        self.made: list[Sweeper] = []
        self.at_s = 1000.0

    def sweeper(self, monotonic=None, **limits):
        sweeper = Sweeper(
            self.broker,
            limits=SweeperLimits(**limits),
            backlog=lambda: self.backlog,
            monotonic=monotonic or (lambda: self.at_s),
        )
        self.made.append(sweeper)
        return sweeper

    def owe(self, images=1, **changes):
        now = self.clock.now()
        with self.broker.units_of_work() as uow:
            key = uow.deliveries.add(
                a_delivery(next(self.numbers), **{"due_at": now, "created_at": now, **changes}), now=now
            )
            new = [an_instance(next(self.numbers)) for _ in range(images)]
            uow.deliveries.add_items(key, uow.instances.add_many(new))
            uow.commit()
        return key

    def state(self, key):
        with self.broker.units_of_work() as uow:
            return uow.deliveries.get(key).state


def until(condition, within_s=30.0):
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s
        time.sleep(0.005)


@pytest.fixture
def turns(sqlite_uow_factory, clock, queue):
    turns = Turns(sqlite_uow_factory, clock, queue)
    yield turns
    for sweeper in turns.made:
        sweeper.stop(5)


def test_while_redis_answers_workers_are_woken_and_nothing_is_sent_here(turns):
    key = turns.owe()
    turns.sweeper().turn()
    assert turns.queue.ids(Task.DELIVER) == [key]
    assert turns.state(key) is S.PENDING


def test_no_more_are_woken_than_the_destination_takes(turns):
    keys = [turns.owe() for _ in range(50)]
    turns.sweeper().turn()
    assert turns.queue.ids(Task.DELIVER) == keys[:2]


def test_while_redis_is_away_the_sweep_sends(turns):
    turns.backlog = None
    keys = [turns.owe() for _ in range(5)]
    sweeper = turns.sweeper()
    sweeper.turn()
    until(lambda: all(turns.state(key) is S.DELIVERED for key in keys))
    assert all(wake_up.task is Task.DELIVER for wake_up in turns.queue.wake_ups)  # only places handed on
    assert "without Redis" in sweeper.prove()
    turns.backlog = 0
    sweeper.turn()
    assert "without Redis" not in sweeper.prove()


def test_a_redis_nobody_reads_is_not_filled(turns):
    turns.owe()
    turns.backlog = 501
    turns.sweeper().turn()
    assert turns.queue.wake_ups == []


def test_what_no_worker_takes_is_sent_here_after_a_while(turns):
    key = turns.owe()
    sweeper = turns.sweeper(overdue_s=0.2, unheard_s=10)
    sweeper.turn()
    assert turns.state(key) is S.PENDING
    turns.at_s += 0.25
    sweeper.turn()
    until(lambda: turns.state(key) is S.DELIVERED)


def test_untaken_wake_ups_shorten_the_patience(turns):
    key = turns.owe()
    turns.backlog = 3
    sweeper = turns.sweeper(overdue_s=100, unheard_s=0.1)
    sweeper.turn()
    turns.at_s += 0.15
    sweeper.turn()
    until(lambda: turns.state(key) is S.DELIVERED)


def test_a_hung_destination_leaves_the_sweep_its_hands_free(turns):
    turns.backlog = None
    hung, go_on = turns.broker.add("hung"), threading.Event()

    def hang(parcel, settled):
        go_on.wait(60)
        return RetryLater("at last")

    hung.script = [hang] * 50
    stuck = [turns.owe(destination="hung") for _ in range(20)]
    good = [turns.owe() for _ in range(5)]
    sweeper = turns.sweeper(threads=4)
    sweeper.turn()
    until(lambda: all(turns.state(key) is S.DELIVERED for key in good))
    until(lambda: hung.sends == 2)
    assert [turns.state(key) for key in stuck].count(S.IN_PROGRESS) == 2
    sweeper.turn()
    assert hung.sends == 2
    go_on.set()


def test_the_probe_of_a_destination_that_failed_is_made_here(turns):
    for _ in range(5):
        turns.archive.script.append(RetryLater("refused"))
        turns.owe()
    turns.backlog = None
    sweeper = turns.sweeper()
    sweeper.turn()
    until(lambda: turns.archive.sends == 5 and not sweeper._running)
    turns.clock.advance(60)
    sweeper.turn()
    until(lambda: turns.archive.checks == 1)


def test_chores_are_done_when_their_time_comes_and_one_that_fails_stops_nothing(turns):
    done = []

    def fail():
        done.append("bad")
        raise RuntimeError("HAYDN")

    turns.broker.with_(
        turns.queue, [Chore("good", 0.2, lambda: done.append("good")), Chore("bad", 100.0, fail)]
    )
    sweeper = turns.sweeper()
    sweeper.turn()
    sweeper.turn()
    until(lambda: sorted(done) == ["bad", "good"] and not sweeper._running)
    turns.at_s += 0.25
    sweeper.turn()
    until(lambda: sorted(done) == ["bad", "good", "good"])


def test_the_sweep_outlives_the_database(turns, capsys):
    key = turns.owe()
    real, is_down = turns.broker.units_of_work, threading.Event()
    is_down.set()

    def units_of_work():
        if is_down.is_set():
            raise DatabaseUnavailable
        return real()

    turns.broker.units_of_work = units_of_work
    turns.backlog = None
    sweeper = turns.sweeper(monotonic=time.monotonic, interval_s=0.05)
    sweeper.start()
    until(lambda: sweeper._fails)
    assert sweeper.alive
    is_down.clear()
    turns.broker.units_of_work = real
    until(lambda: turns.state(key) is S.DELIVERED)
    for _ in range(3):  # what is said at each sweep would be said again
        swept_at_s = sweeper._swept_at_s
        until(lambda: sweeper._swept_at_s > swept_at_s)  # noqa: B023
    sweeper.stop(30)  # what was found is sent before the sweep that found it has had its say
    lines = capsys.readouterr().out
    assert lines.count("sweep failed") == 1
    assert lines.count("sweeping again") == 1


def test_a_chore_that_needs_no_database_is_done_without_it(turns):
    done = []

    def units_of_work():
        raise DatabaseUnavailable

    turns.broker.with_(
        turns.queue,
        [
            Chore("needs it", 0.05, lambda: done.append("needs it")),
            Chore("tells", 0.05, lambda: done.append("tells"), without_database=True),
        ],
    )
    turns.broker.units_of_work = units_of_work
    sweeper = turns.sweeper(monotonic=time.monotonic, interval_s=0.05)
    sweeper.start()
    until(lambda: done.count("tells") >= 2)
    assert "needs it" not in done


def test_a_silent_sweep_does_not_serve(turns):
    sweeper = turns.sweeper(silent_s=0.05)
    assert "swept" in sweeper.prove()
    turns.at_s += 0.1
    with pytest.raises(RuntimeError, match="no sweep"):
        sweeper.prove()


def test_a_chore_that_must_not_be_missed_is_missed_aloud(turns):
    fails = [False]

    def look():
        if fails[0]:
            raise RuntimeError("HAYDN")

    chores = [
        Chore("look for trouble", 20.0, look, missed_after_s=60.0),
        Chore("tidy", 3600.0, lambda: None),
    ]
    turns.broker.with_(turns.queue, chores)
    sweeper = turns.sweeper()

    def turn(after_s):
        turns.at_s += after_s
        sweeper.turn()
        until(lambda: not sweeper._running)

    turn(0)
    fails[0] = True
    turn(59)
    assert "swept" in sweeper.prove(), "one that fails may do better the next time"
    turn(20)
    with pytest.raises(RuntimeError, match="cannot look for trouble, for 79 s") as raised:
        sweeper.prove()
    assert "HAYDN" not in str(raised.value)
    fails[0] = False
    turn(20)
    assert "swept" in sweeper.prove()


def test_a_nudge_sweeps_at_once(turns):
    turns.backlog = None
    sweeper = turns.sweeper(interval_s=90)
    sweeper.start()
    until(lambda: sweeper._thorough_at_s > 0)
    key = turns.owe()
    sweeper.nudge()
    until(lambda: turns.state(key) is S.DELIVERED)


def test_images_nobody_decided_about_wake_a_router_or_are_routed_here(turns):
    turns.broker.routed_state = InstanceState.UNROUTED
    with turns.broker.units_of_work() as uow:
        keys = uow.instances.add_many([an_instance(number) for number in range(900, 903)])
        uow.commit()
    turns.clock.advance(timedelta(seconds=5))
    sweeper = turns.sweeper()
    sweeper.turn()
    assert turns.queue.ids(Task.ROUTE) == keys[:1]
    turns.backlog = None
    sweeper.turn()
    until(lambda: sorted(turns.broker.routed) == sorted(keys))


def test_a_sweep_without_a_place_for_the_bell_sweeps(turns, tmp_path):
    sweeper = Sweeper(turns.broker, backlog=lambda: 0, doorbell=tmp_path / ("x" * 200) / "bell.sock")
    key = turns.owe()

    sweeper.start()

    until(lambda: key in turns.queue.ids(Task.DELIVER))
    assert sweeper.alive
    sweeper.stop(5)
