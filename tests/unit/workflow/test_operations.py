import json
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.delivery import DeliveryState, Priority, Rejected, RetryLater
from broker.errors import Conflict, IllegalTransition, NotFound
from broker.workflow.deliveries import deliver
from broker.workflow.destinations_port import DestinationHealth, DestinationState
from broker.workflow.idempotency import request_key
from broker.workflow.operations import Act, Asked, Target, act_on, cancel, release, retry, takes
from broker.workflow.sending import SendingLimits, Worker
from broker.workflow.wake_ups import Task
from tests.builders import a_delivery, an_instance
from tests.fakes.destination import FakeBroker

S = DeliveryState
WORKER = Worker("w1", SendingLimits(drain_s=-1))


class Desk:
    """Deliveries to one archive, and an operator called anna."""

    def __init__(self, units_of_work, clock, queue, engine):
        self.broker = FakeBroker(units_of_work, clock)
        self.archive = self.broker.add("archive")
        self.clock, self.queue, self.engine = clock, queue, engine
        self.numbers = iter(range(1, 10_000))

    def owe(self, state=S.PENDING, images=2, **changes):
        number = next(self.numbers)
        with self.broker.units_of_work() as uow:
            delivery = a_delivery(number, state=state, due_at=self.clock.now(), created_at=self.clock.now())
            key = uow.deliveries.add(replace(delivery, **changes), now=self.clock.now())
            new = [an_instance(next(self.numbers)) for _ in range(images)]
            uow.deliveries.add_items(key, uow.instances.add_many(new))
            uow.commit()
        return key

    def row(self, key):
        with self.broker.units_of_work() as uow:
            return uow.deliveries.get(key)

    def send(self, key):
        return deliver(key, self.broker, worker=WORKER)

    def health(self):
        with self.broker.units_of_work() as uow:
            return uow.destinations.get("archive")

    def events(self):
        with self.engine.connect() as connection:
            return [
                tuple(row) for row in connection.exec_driver_sql("SELECT name, actor FROM event ORDER BY id")
            ]

    def do(self, operation, key, **more):
        return operation(key, self.broker.units_of_work, self.clock, actor="anna", **more)


@pytest.fixture
def desk(sqlite_uow_factory, clock, queue, sqlite_engine):
    return Desk(sqlite_uow_factory, clock, queue, sqlite_engine)


def rest(desk, state=DestinationHealth.FAILING, **changes):
    until = desk.clock.now() + timedelta(minutes=15)
    row = DestinationState("archive", state, since=desk.clock.now(), failures=9, open_until=until)
    with desk.broker.units_of_work() as uow:
        uow.destinations.save(replace(row, **changes))
        uow.commit()


@pytest.mark.parametrize("state", [DestinationHealth.FAILING, DestinationHealth.PAUSED])
def test_who_retries_lets_a_destination_that_rests_be_asked_at_once(desk, state):
    rest(desk, state)
    key = desk.owe(S.DEAD)
    assert desk.do(retry, key)
    assert desk.health().open_until == desk.clock.now()
    assert desk.health().state is state, "only its answer lets it go on"


def test_a_retry_does_not_end_what_a_person_paused(desk):
    rest(desk, DestinationHealth.PAUSED, open_until=None, held_by="anna")
    assert desk.do(retry, desk.owe(S.DEAD))
    assert (desk.health().state, desk.health().open_until) == (DestinationHealth.PAUSED, None)


def test_a_dead_delivery_is_sent_again_but_not_what_was_delivered(desk):
    key = desk.owe(images=3)
    desk.archive.script = [desk.archive.take_then(1, Rejected("A900"))]
    desk.send(key)
    assert desk.row(key).state is S.DEAD
    assert desk.do(retry, key)
    row = desk.row(key)
    assert (row.state, row.failures, row.due_at) == (S.PENDING, 0, desk.clock.now())
    assert key in desk.queue.ids(Task.DELIVER)
    assert desk.events()[-1] == ("delivery retried by a person", "anna")
    desk.send(key)
    assert desk.row(key).state is S.DELIVERED
    assert len(desk.archive.received) == len(set(desk.archive.received)) == 3


def test_refused_items_get_another_chance(desk):
    key = desk.owe(images=2)
    with desk.broker.units_of_work() as uow:
        desk.archive.refuses = {uow.deliveries.waiting_items(key, after=0, limit=1)[0].sop_instance_uid}
    desk.send(key)
    assert (desk.row(key).state, desk.row(key).items_rejected) == (S.DEAD, 1)
    desk.archive.refuses = set()
    desk.do(retry, key)
    desk.send(key)
    row = desk.row(key)
    assert (row.state, row.items_delivered, row.items_rejected) == (S.DELIVERED, 2, 0)


def test_what_waits_for_its_next_try_is_sent_now(desk):
    key = desk.owe()
    desk.archive.script = [RetryLater("refused")]
    desk.send(key)
    assert desk.row(key).due_at > desk.clock.now()
    assert desk.do(retry, key)
    assert desk.row(key).due_at == desk.clock.now()
    assert not desk.do(retry, key)  # the second click changes nothing
    assert [name for name, _ in desk.events()].count("delivery retried by a person") == 1


@pytest.mark.parametrize("state", [S.COLLECTING, S.DELIVERED, S.IN_PROGRESS])
def test_retrying_what_is_not_dead_cancelled_or_pending_is_refused_and_changes_nothing(desk, state):
    key = desk.owe(state)
    before, events = desk.row(key), desk.events()
    with pytest.raises(IllegalTransition):
        desk.do(retry, key)
    assert (desk.row(key), desk.events()) == (before, events)
    assert desk.queue.wake_ups == []


def test_a_unit_is_not_opened_twice(desk):
    dead = desk.owe(S.DEAD, unit_uid="1.2.3")
    desk.owe(unit_uid="1.2.3")
    before = desk.row(dead)
    with pytest.raises(Conflict, match="still open"):
        desk.do(retry, dead)
    assert desk.row(dead) == before


@pytest.mark.parametrize("state", [S.COLLECTING, S.PENDING, S.DEAD])
def test_what_is_not_sent_yet_can_be_cancelled_once(desk, state):
    key = desk.owe(state)
    assert desk.do(cancel, key)
    assert desk.row(key).state is S.CANCELLED
    assert not desk.do(cancel, key)
    assert desk.events() == [("delivery cancelled by a person", "anna")]
    assert desk.send(key) == []


@pytest.mark.parametrize("state", [S.DELIVERED, S.IN_PROGRESS])
def test_what_is_sent_or_being_sent_cannot_be_cancelled(desk, state):
    key = desk.owe(state)
    before = desk.row(key)
    with pytest.raises(IllegalTransition):
        desk.do(cancel, key)
    assert (desk.row(key), desk.events()) == (before, [])


def test_a_collecting_delivery_is_sent_now_when_released(desk):
    key = desk.owe(S.COLLECTING, due_at=desk.clock.now() + timedelta(minutes=5))
    assert desk.do(release, key)
    assert (desk.row(key).state, desk.row(key).due_at) == (S.PENDING, desk.clock.now())
    assert not desk.do(release, key)
    assert desk.events() == [("delivery released by a person", "anna")]
    desk.send(key)
    assert desk.row(key).state is S.DELIVERED


def test_releasing_what_is_dead_is_refused(desk):
    key = desk.owe(S.DEAD)
    with pytest.raises(IllegalTransition):
        desk.do(release, key)
    assert desk.row(key).state is S.DEAD


def test_an_unknown_delivery_is_not_found(desk):
    for operation in (retry, cancel, release):
        with pytest.raises(NotFound):
            desk.do(operation, 4711)


def test_a_cancelled_delivery_is_sent_again_when_retried(desk):
    key = desk.owe()
    desk.do(cancel, key)
    assert desk.do(retry, key)
    desk.send(key)
    assert desk.row(key).state is S.DELIVERED
    assert len(desk.archive.received) == 2


def test_an_act_says_who_and_why(desk):
    key = desk.owe()
    asked = Asked(Act.CANCEL, "anna", reason="wrong patient")
    act_on(key, asked, desk.broker.units_of_work, desk.clock)
    assert desk.row(key).reason == "Cancelled by anna: wrong patient"
    assert desk.events()[-1] == ("delivery cancelled by a person", "anna")
    with desk.engine.connect() as connection:
        (details,) = connection.exec_driver_sql("SELECT details FROM event ORDER BY id DESC LIMIT 1").one()
    assert json.loads(details)["why"] == "wrong patient"


def test_a_request_with_its_key_is_done_once(desk):
    key = desk.owe(S.DEAD)
    once = Asked(Act.RETRY, "anna", key=request_key("k", actor="anna", asked=f"retry {key}"))
    args = (desk.broker.units_of_work, desk.clock)
    assert act_on(key, once, *args)
    desk.archive.script = [Rejected("A900")]
    desk.send(key)
    assert not act_on(key, once, *args)
    assert desk.row(key).state is S.DEAD
    other = desk.owe(S.DEAD)
    with pytest.raises(Conflict, match="another request"):
        act_on(
            other,
            Asked(Act.RETRY, "anna", key=request_key("k", actor="anna", asked=f"retry {other}")),
            *args,
        )
    assert desk.row(other).state is S.DEAD


@pytest.mark.parametrize("state", [S.DELIVERED, S.IN_PROGRESS, S.CANCELLED])
def test_what_is_over_or_under_way_is_not_sent_elsewhere(desk, state):
    key = desk.owe(state)
    before = desk.row(key)
    with pytest.raises(IllegalTransition):
        act_on(
            key,
            Asked(Act.RETARGET, "anna", target=Target("second", "dicom")),
            desk.broker.units_of_work,
            desk.clock,
        )
    assert desk.row(key) == before


def test_an_urgent_delivery_goes_before_the_one_a_wake_up_names(desk):
    routine, urgent = desk.owe(), desk.owe(priority=1)
    (attempt,) = desk.send(routine)
    assert attempt.delivery == urgent
    assert (desk.row(urgent).state, desk.row(routine).state) == (S.DELIVERED, S.PENDING)


def test_nothing_starves_the_routine_behind_an_urgent_one_that_is_not_due(desk):
    desk.owe(priority=1, due_at=desk.clock.now() + timedelta(hours=1))
    routine = desk.owe()
    (attempt,) = desk.send(routine)
    assert attempt.delivery == routine


def test_the_priority_of_what_is_being_sent_changes_without_touching_its_lease(desk):
    key = desk.owe(S.IN_PROGRESS, lease_until=desk.clock.now(), worker="w")
    asked = Asked(Act.PRIORITY, "anna", priority=Priority.URGENT)
    assert act_on(key, asked, desk.broker.units_of_work, desk.clock)
    assert not act_on(key, asked, desk.broker.units_of_work, desk.clock)
    row = desk.row(key)
    assert (row.priority, row.state, row.worker) == (1, S.IN_PROGRESS, "w")
    dead = desk.owe(S.DEAD)
    with pytest.raises(IllegalTransition):
        act_on(dead, asked, desk.broker.units_of_work, desk.clock)


@pytest.mark.parametrize(
    ("kind", "meant_for", "fits"),
    [
        ("dicom", "dicom", True),
        ("folder", "dicom", True),
        ("dicom", "print", True),
        ("print", "print", True),
        ("print", "dicom", False),
        ("mllp", "dicom", False),
        ("dicom", "mllp", False),
        ("mllp", "mllp", True),
    ],
)
def test_images_go_where_images_are_kept_and_messages_where_they_are_read(kind, meant_for, fits):
    payload = b"MSH|" if meant_for == "mllp" else None
    assert takes(kind, a_delivery(kind=meant_for, payload=payload)) is fits
