"""Pausing, draining and resuming a destination."""

from datetime import timedelta

import pytest

from broker.domain.delivery import DeliveryState, RetryLater
from broker.errors import InvalidValue
from broker.workflow.deliveries import deliver
from broker.workflow.destination_health import BreakerPolicy
from broker.workflow.destinations_port import DestinationHealth
from broker.workflow.holds import Hold, drain, end_holds, pause, resume
from broker.workflow.idempotency import request_key
from broker.workflow.lease_watch import LeaseWatch
from broker.workflow.sending import SendingLimits, Worker
from broker.workflow.sweep import SweepLimits, probe, sweep
from broker.workflow.wake_ups import Task
from tests.builders import a_delivery, an_instance
from tests.fakes.destination import FakeBroker

S = DeliveryState
ONE_EACH = Worker("w1", SendingLimits(drain_s=-1))
GOES_ON = Worker("w1", SendingLimits(drain_s=5))


class Desk:
    """An archive, and an operator called anna."""

    def __init__(self, units_of_work, clock, queue, engine):
        self.broker = FakeBroker(units_of_work, clock)
        self.archive = self.broker.add("archive")
        self.clock, self.queue, self.engine = clock, queue, engine
        self.numbers = iter(range(1, 10_000))
        self.args = ("archive", units_of_work, clock)

    def owe(self, state=S.PENDING, **changes):
        number, now = next(self.numbers), self.clock.now()
        with self.broker.units_of_work() as uow:
            delivery = a_delivery(number, state=state, due_at=now, created_at=now, **changes)
            key = uow.deliveries.add(delivery, now=now)
            uow.deliveries.add_items(key, uow.instances.add_many([an_instance(next(self.numbers))]))
            uow.commit()
        return key

    def state(self, key):
        with self.broker.units_of_work() as uow:
            return uow.deliveries.get(key).state

    def send(self, key, worker=ONE_EACH):
        return deliver(key, self.broker, worker=worker)

    def health(self):
        with self.broker.units_of_work() as uow:
            return uow.destinations.get("archive")

    def events(self):
        with self.engine.connect() as connection:
            return [
                tuple(row)
                for row in connection.exec_driver_sql(
                    "SELECT name, actor FROM event WHERE subject = 'destination' ORDER BY id"
                )
            ]


@pytest.fixture
def desk(sqlite_uow_factory, clock, queue, sqlite_engine):
    return Desk(sqlite_uow_factory, clock, queue, sqlite_engine)


def test_a_paused_destination_is_sent_nothing_until_resumed(desk):
    key = desk.owe()
    assert pause(*desk.args, Hold("anna", "upgrade"))
    assert not pause(*desk.args, Hold("anna"))
    assert (desk.health().state, desk.health().reason) == (DestinationHealth.PAUSED, "upgrade")
    assert desk.health().held_by == "anna"
    assert desk.send(key) == []
    desk.clock.advance(timedelta(days=3))
    assert desk.send(key) == []
    assert sweep(desk.broker, limits=SweepLimits(), watch=LeaseWatch()).due == ()
    assert resume(*desk.args, actor="anna")
    assert not resume(*desk.args, actor="anna")
    assert desk.queue.ids(Task.DELIVER) == [key]
    desk.send(key)
    assert desk.state(key) is S.DELIVERED
    assert desk.events() == [("destination paused", "anna"), ("destination resumed", "anna")]


def test_a_pause_with_an_end_resumes_by_itself_then_and_not_before(desk):
    key = desk.owe()
    pause(*desk.args, Hold("anna", "upgrade", desk.clock.now() + timedelta(hours=1)))
    desk.clock.advance(timedelta(minutes=59))
    sweep(desk.broker, limits=SweepLimits(), watch=LeaseWatch())
    assert desk.send(key) == []
    desk.clock.advance(timedelta(minutes=1))
    assert [wake_up.id for wake_up in sweep(desk.broker, limits=SweepLimits(), watch=LeaseWatch()).due] == [
        key
    ]
    health = desk.health()
    assert (health.state, health.reason, health.held_by, health.resume_at) == (
        DestinationHealth.UP,
        None,
        None,
        None,
    )
    assert desk.events()[-1] == ("destination resumed", "broker")


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(seconds=-1), timedelta(days=32)], ids=str)
@pytest.mark.parametrize("hold", [pause, drain])
def test_an_end_that_cannot_be_meant_is_refused_and_changes_nothing(desk, hold, ahead):
    with pytest.raises(InvalidValue, match="ahead"):
        hold(*desk.args, Hold("anna", until=desk.clock.now() + ahead))
    assert desk.health() is None
    assert desk.events() == []


def test_the_end_and_the_reason_of_a_pause_can_be_changed(desk):
    pause(*desk.args, Hold("anna", "upgrade"))
    began = desk.health().since
    until = desk.clock.now() + timedelta(hours=2)
    desk.clock.advance(timedelta(minutes=5))
    assert pause(*desk.args, Hold("ben", "upgrade takes longer", until))
    health = desk.health()
    assert (health.reason, health.held_by, health.resume_at) == ("upgrade takes longer", "ben", until)
    assert health.since == began


def test_draining_sends_what_was_planned_and_holds_what_comes(desk):
    before = [desk.owe(), desk.owe(S.COLLECTING)]
    assert drain(*desk.args, Hold("anna", "new disks"))
    assert not drain(*desk.args, Hold("anna"))
    later = desk.owe()
    urgent = desk.owe(priority=1)
    assert desk.send(later) == []
    assert len(desk.send(before[0], GOES_ON)) == 1
    assert [desk.state(key) for key in (*before, later, urgent)] == [
        S.DELIVERED,
        S.COLLECTING,
        S.PENDING,
        S.PENDING,
    ]
    assert end_holds(desk.broker.units_of_work, desk.clock) == 0  # one still collects


def test_what_is_drained_is_paused_until_a_person_resumes_it(desk):
    first = desk.owe()
    drain(*desk.args, Hold("anna", "new disks"))
    later = desk.owe()
    desk.send(first)
    sweep(desk.broker, limits=SweepLimits(), watch=LeaseWatch())
    health = desk.health()
    assert (health.state, health.reason, health.drain_to) == (DestinationHealth.PAUSED, "new disks", None)
    assert desk.send(later) == []
    resume(*desk.args, actor="ben")
    desk.send(later)
    assert desk.state(later) is S.DELIVERED
    assert desk.events() == [
        ("destination draining", "anna"),
        ("destination drained", "broker"),
        ("destination resumed", "ben"),
    ]


def test_a_drain_that_fails_on_the_way_goes_on_draining_when_the_destination_answers_again(desk):
    first = desk.owe()
    drain(*desk.args, Hold("anna"))
    later = desk.owe()
    impatient = Worker("w1", SendingLimits(drain_s=-1, breaker=BreakerPolicy(failures=1)))
    desk.archive.script = [RetryLater("refused")]
    desk.send(first, impatient)
    assert desk.health().open_until is not None
    resume_probe = desk.health()
    assert resume_probe.drain_to is not None
    desk.clock.advance(timedelta(minutes=5))
    assert probe("archive", desk.broker, policy=BreakerPolicy()).ok
    assert desk.send(later) == []
    desk.send(first)
    assert desk.state(first) is S.DELIVERED
    assert end_holds(desk.broker.units_of_work, desk.clock) == 1
    assert desk.health().state is DestinationHealth.PAUSED


def test_draining_a_paused_destination_lets_what_waits_out(desk):
    first = desk.owe()
    pause(*desk.args, Hold("anna"))
    drain(*desk.args, Hold("anna"))
    desk.send(first)
    assert desk.state(first) is S.DELIVERED


def test_resuming_ends_a_drain_and_closes_the_breaker(desk):
    for _ in range(5):
        desk.archive.script = [RetryLater("refused")]
        desk.send(desk.owe())
    drain(*desk.args, Hold("anna"))
    assert desk.health().open_until is not None
    assert resume(*desk.args, actor="anna", reason="the switch is mended")
    health = desk.health()
    assert (health.state, health.failures, health.drain_to) == (DestinationHealth.UP, 0, None)


def test_a_request_with_a_key_is_done_once_even_when_the_world_has_moved_on(desk):
    key = request_key("k1", actor="anna", asked="pause archive")
    assert pause(*desk.args, Hold("anna", "upgrade", key=key))
    resume(*desk.args, actor="ben")
    assert not pause(*desk.args, Hold("anna", "upgrade", key=key))
    assert desk.health().state is DestinationHealth.UP
