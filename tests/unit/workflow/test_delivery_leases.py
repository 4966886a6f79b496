"""Leases and fences: who may settle a delivery, whatever dies and wherever the clock jumps."""

from contextlib import contextmanager
from datetime import timedelta

import pytest

from broker.domain.delivery import Delivered, ItemState, Priority, Rejected, RetryLater
from broker.domain.delivery import DeliveryState as S
from broker.errors import DatabaseUnavailable, LeaseLost, StorageFull
from broker.workflow.deliveries import deliver
from broker.workflow.destination_health import note_misconfigured
from broker.workflow.destinations_port import ItemResult
from broker.workflow.lease_watch import LeaseWatch
from broker.workflow.operations import Act, Asked, act_on
from broker.workflow.sending import Worker
from broker.workflow.sweep import sweep
from tests.builders import an_instance
from tests.fakes.destination import UnsafeDestination
from tests.unit.workflow.delivery_ward import LIMITS, SWEEP, without_drain


def test_the_lease_moves_with_every_settled_batch(ward):
    key, seen = ward.owe(2), []

    def watch(parcel, settled):
        for item in parcel.items:
            ward.clock.advance(30)
            settled([ItemResult(item.id, ItemState.DELIVERED)])
            seen.append(ward.row(key).lease_until - ward.clock.now())
        return Delivered()

    ward.archive.script = [watch]
    ward.deliver(key)
    assert seen == [LIMITS.lease, LIMITS.lease]


def test_the_lease_is_kept_while_a_long_answer_is_awaited(ward):
    key, kept = ward.owe(1), []

    class Keeper:
        def __init__(self, renew):
            self.renew = renew

        def __enter__(self):
            kept.append(self)

        def __exit__(self, *_):
            kept.append("over")

    def slow(parcel, settled):
        for _ in range(3):
            ward.clock.advance(60)
            assert kept[0].renew()
            assert ward.sweep().expired == 0
        return ward.archive.accept(parcel, settled)

    ward.archive.script = [slow]
    ward.deliver(key, keep_alive=Keeper)
    assert ward.row(key).state is S.DELIVERED
    assert kept[-1] == "over"


def test_a_zombie_can_neither_settle_nor_report_progress(ward):
    key = ward.owe(2)

    def zombie(parcel, settled):
        item = next(parcel.items)
        ward.see()
        ward.clock.advance(timedelta(minutes=5))
        ward.sweep()
        (other,) = ward.deliver(key, name="w2")
        assert other.settlement.state is S.DELIVERED
        before = ward.row(key)
        with pytest.raises(LeaseLost):
            settled([ItemResult(item.id, ItemState.REJECTED, reason="late")])
        assert ward.row(key) == before
        return Rejected("late")

    ward.archive.script = [zombie]
    (attempt,) = ward.deliver(key)
    assert attempt.settlement is None
    row = ward.row(key)
    assert (row.state, row.items_delivered, row.items_rejected, row.attempt) == (S.DELIVERED, 2, 0, 2)


def test_what_a_dead_worker_holds_is_taken_back_before_its_lease_ends(ward):
    key = ward.owe(3)
    with ward.broker.units_of_work() as uow:
        uow.deliveries.claim(key, worker="dead", now=ward.clock.now(), lease=LIMITS.lease)
        uow.commit()
    living = sweep(ward.broker, limits=SWEEP, watch=LeaseWatch(), is_gone=lambda worker: worker != "dead")
    assert (living.expired, ward.row(key).state) == (0, S.IN_PROGRESS)
    work = sweep(ward.broker, limits=SWEEP, watch=LeaseWatch(), is_gone=lambda worker: worker == "dead")
    assert (work.expired, ward.row(key).state) == (1, S.PENDING)
    assert [wake_up.id for wake_up in work.due] == [key]
    ward.deliver(key)
    assert (ward.row(key).state, ward.row(key).attempt) == (S.DELIVERED, 2)


@pytest.mark.parametrize("trouble", [DatabaseUnavailable, StorageFull])
def test_what_cannot_be_settled_is_given_back_when_the_database_is_there_again(ward, trouble):
    key, following = ward.owe(2), ward.owe(1)
    given_up = []
    worker = Worker("w1", LIMITS, give_up=given_up.append)

    def cut(parcel, settled):
        raise trouble

    ward.archive.script = [cut]
    (attempt,) = deliver(key, ward.broker, worker=worker)
    assert (attempt.settlement, ward.row(key).state) == (None, S.IN_PROGRESS)
    (release,) = given_up
    release()
    assert (ward.row(key).state, ward.row(key).lease_until) == (S.PENDING, None)
    release()  # nothing is left to give back
    ward.deliver(key)
    release()
    assert (ward.row(key).state, ward.row(key).attempt) == (S.DELIVERED, 2)
    assert ward.row(following).state is S.DELIVERED


def test_an_end_that_the_full_disk_refuses_is_given_back_when_there_is_room_again(ward):
    key, given_up, room = ward.owe(1), [], ward.broker.units_of_work

    def refuse():
        raise StorageFull

    @contextmanager
    def full():
        ward.broker.units_of_work = room
        with room() as uow:
            uow.commit = refuse
            yield uow

    def fill_the_disk(parcel, settled):
        outcome = ward.archive.accept(parcel, settled)
        ward.broker.units_of_work = full
        return outcome

    ward.archive.script = [fill_the_disk]
    (attempt,) = deliver(key, ward.broker, worker=Worker("w1", LIMITS, give_up=given_up.append))
    assert (attempt.settlement, ward.row(key).state) == (None, S.IN_PROGRESS)
    (release,) = given_up
    release()
    assert ward.row(key).state is S.PENDING


def test_an_expired_lease_of_what_must_not_repeat_asks_for_a_person(ward):
    ward.broker.add("film", UnsafeDestination()).script = [DatabaseUnavailable]
    printer = ward.broker.entries["film"].plugin

    def vanish(parcel, settled):
        raise DatabaseUnavailable

    printer.script = [vanish]
    key = ward.owe(1, destination="film")
    ward.deliver(key)
    ward.clock.advance(timedelta(minutes=2))
    ward.sweep()
    row = ward.row(key)
    assert row.state is S.DEAD
    assert "check" in row.reason


def test_a_clock_set_forward_steals_no_lease_of_a_living_worker(ward):
    key, watch = ward.owe(1), LeaseWatch()
    sweep(ward.broker, limits=SWEEP, watch=watch)

    def long(parcel, settled):
        ward.clock.jump(timedelta(hours=1))
        assert sweep(ward.broker, limits=SWEEP, watch=watch).expired == 0
        ward.clock.advance(20)
        settled([])  # the living renew
        ward.clock.advance(20)
        assert sweep(ward.broker, limits=SWEEP, watch=watch).expired == 0
        return ward.archive.accept(parcel, settled)

    ward.archive.script = [long]
    ward.deliver(key)
    assert (ward.row(key).state, ward.row(key).attempt) == (S.DELIVERED, 1)


def test_a_sweeper_that_begins_after_a_jump_takes_no_lease_it_has_not_seen_unrenewed(ward):
    key, lease_s = ward.owe(1), LIMITS.lease.total_seconds()

    def long(parcel, settled):
        ward.clock.jump(timedelta(hours=1))
        late = LeaseWatch()  # a sweeper that starts now knows of no jump
        for _ in range(10):
            assert sweep(ward.broker, limits=SWEEP, watch=late).expired == 0
            ward.clock.advance(lease_s / 3)
            settled([])  # the living renew
        return ward.archive.accept(parcel, settled)

    ward.archive.script = [long]
    ward.deliver(key)
    assert (ward.row(key).state, ward.row(key).attempt) == (S.DELIVERED, 1)


def test_a_sweeper_that_begins_waits_a_whole_lease_before_it_takes_one(ward):
    key = ward.owe(1)

    def die(parcel, settled):
        raise DatabaseUnavailable

    ward.archive.script = [die]
    ward.deliver(key)
    ward.clock.advance(timedelta(hours=1))
    late = LeaseWatch()
    assert sweep(ward.broker, limits=SWEEP, watch=late).expired == 0
    ward.clock.advance(LIMITS.lease - timedelta(seconds=1))
    assert sweep(ward.broker, limits=SWEEP, watch=late).expired == 0
    ward.clock.advance(1)
    assert sweep(ward.broker, limits=SWEEP, watch=late).expired == 1


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_clock_that_was_set_back_lets_nothing_wait_longer_than_was_meant(ward, is_seen):
    watch = LeaseWatch()
    if is_seen:  # else the sweeper begins after the jump
        sweep(ward.broker, limits=SWEEP, watch=watch)
    due, later = ward.owe(), ward.owe()
    ward.archive.script = [RetryLater("busy", first_delay_s=60)]
    ward.deliver(later, **without_drain())
    meant = ward.row(later).due_at - ward.clock.now()
    ward.clock.jump(timedelta(hours=-1))
    assert [wake.id for wake in sweep(ward.broker, limits=SWEEP, watch=watch).due] == [due]
    assert ward.row(later).due_at == ward.clock.now() + meant
    ward.clock.advance(1)
    sweep(ward.broker, limits=SWEEP, watch=watch)
    assert ward.row(later).due_at == ward.clock.now() + meant - timedelta(seconds=1)


def test_a_new_priority_after_the_clock_was_set_back_makes_nothing_wait_longer(ward):
    key = ward.owe()
    ward.archive.script = [RetryLater("busy", first_delay_s=60)]
    ward.deliver(key)
    meant = ward.row(key).due_at - ward.clock.now()
    ward.clock.jump(timedelta(hours=-1))
    asked = Asked(Act.PRIORITY, "anna", priority=Priority.LOW)
    assert act_on(key, asked, ward.broker.units_of_work, ward.clock)
    ward.sweep()
    assert ward.row(key).due_at == ward.clock.now() + meant


def test_a_clock_that_was_set_back_keeps_no_destination_closed_for_long(ward):
    with ward.broker.units_of_work() as uow:
        note_misconfigured(uow, "archive", "not known", now=ward.clock.now(), policy=LIMITS.breaker)
        uow.commit()
    ward.clock.jump(timedelta(hours=-1))
    ward.sweep()
    ward.clock.advance(LIMITS.breaker.misconfigured_retry)
    assert ward.sweep().probes == ("archive",)


def test_a_clock_that_was_set_back_hides_no_image_from_the_sweep(ward):
    with ward.broker.units_of_work() as uow:
        (image,) = uow.instances.add_many([an_instance(1, received_at=ward.clock.now())])
        uow.commit()
    ward.clock.jump(timedelta(hours=-1))
    assert ward.sweep().unrouted == ()
    assert ward.sweep(thorough=True).unrouted == (image,)


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_clock_that_was_set_keeps_no_dead_workers_lease_for_long(ward, jump):
    key, watch = ward.owe(2), LeaseWatch()

    def die(parcel, settled):
        raise DatabaseUnavailable

    ward.archive.script = [die]
    ward.deliver(key)
    sweep(ward.broker, limits=SWEEP, watch=watch)
    ward.clock.jump(jump)
    passed_s = 0
    while ward.row(key).state is S.IN_PROGRESS:
        ward.clock.advance(2)
        passed_s += 2
        sweep(ward.broker, limits=SWEEP, watch=watch, thorough=True)
        assert passed_s <= 90 + 2
    assert ward.row(key).state is S.PENDING
