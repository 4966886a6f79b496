from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.delivery import (
    Delivered,
    DeliveryState,
    ItemState,
    Misconfigured,
    MoreToSend,
    Priority,
    Rejected,
    RetryLater,
    RetryPolicy,
    Unknown,
)
from broker.errors import DatabaseUnavailable, LeaseLost, StorageFull
from broker.workflow.deliveries import deliver
from broker.workflow.destination_health import note_misconfigured
from broker.workflow.destinations_port import DestinationHealth, ItemResult
from broker.workflow.lease_watch import LeaseWatch
from broker.workflow.operations import Act, Asked, act_on
from broker.workflow.sending import SendingLimits, Worker
from broker.workflow.sweep import SweepLimits, probe, sweep
from broker.workflow.wake_ups import Task
from tests.builders import a_delivery, a_message_delivery, an_instance
from tests.fakes.destination import FakeBroker, UnsafeDestination

LIMITS = SendingLimits()
SWEEP = SweepLimits()
S = DeliveryState


class Ward:
    """A broker with one destination, and what a test asks of it."""

    def __init__(self, units_of_work, clock, queue):
        self.broker = FakeBroker(units_of_work, clock)
        self.archive = self.broker.add("archive")
        self.clock, self.queue = clock, queue
        self.numbers = iter(range(1, 10_000))
        self.worker = Worker("w1", LIMITS)
        self.watch = LeaseWatch()

    def owe(self, images=3, **changes):
        """Store a delivery with images of its own."""
        number = next(self.numbers)
        with self.broker.units_of_work() as uow:
            key = uow.deliveries.add(
                a_delivery(number, **{"due_at": self.clock.now(), "created_at": self.clock.now(), **changes}),
                now=self.clock.now(),
            )
            uow.commit()
        self.join(key, images)
        return key

    def owe_message(self, text, key="order 1"):
        number = next(self.numbers)
        with self.broker.units_of_work() as uow:
            delivery = a_message_delivery(key, number, payload=text.encode(), destination="archive")
            found = uow.deliveries.add(
                replace(delivery, due_at=self.clock.now(), created_at=self.clock.now()), now=self.clock.now()
            )
            uow.commit()
        return found

    def join(self, key, images):
        with self.broker.units_of_work() as uow:
            new = [an_instance(next(self.numbers)) for _ in range(images)]
            uow.deliveries.add_items(key, uow.instances.add_many(new))
            uow.commit()

    def row(self, key):
        with self.broker.units_of_work() as uow:
            return uow.deliveries.get(key)

    def health(self, name="archive"):
        with self.broker.units_of_work() as uow:
            return uow.destinations.get(name)

    def deliver(self, key, **changes):
        attempts = deliver(key, self.broker, worker=replace(self.worker, **changes))
        self.see()
        return attempts

    def see(self):
        """Let the sweeper see what is held, as it does every two seconds."""
        with self.broker.units_of_work() as uow:
            self.watch.abandoned(uow.deliveries.held(limit=5), now_s=self.clock.monotonic())

    def sweep(self, *, thorough=False):
        return sweep(self.broker, limits=SWEEP, watch=self.watch, thorough=thorough)


@pytest.fixture
def ward(sqlite_uow_factory, clock, queue):
    return Ward(sqlite_uow_factory, clock, queue)


def without_drain(**changes):
    return {"limits": SendingLimits(drain_s=-1, **changes)}


def test_what_is_owed_is_sent_once_and_is_delivered(ward):
    key = ward.owe(3)
    (attempt,) = ward.deliver(key)
    assert len(ward.archive.received) == 3
    row = ward.row(key)
    assert (row.state, row.attempt, row.items_delivered, row.lease_until) == (S.DELIVERED, 1, 3, None)
    assert attempt.settlement.state is S.DELIVERED
    assert ward.deliver(key) == []
    assert len(ward.archive.received) == 3


def test_items_are_given_with_the_path_of_their_file_and_all_contexts(ward):
    key, seen = ward.owe(2), []

    def look(parcel, settled):
        seen.append((parcel.contexts, [str(item.path) for item in parcel.items]))
        return RetryLater("enough")

    ward.archive.script = [look]
    ward.deliver(key)
    ((contexts, paths),) = seen
    assert contexts == (("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"),)
    assert all(path.startswith("/store/") for path in paths)
    assert len(paths) == 2


@pytest.mark.parametrize("state", [S.COLLECTING, S.DEAD, S.CANCELLED, S.DELIVERED])
def test_a_wake_up_for_what_is_not_pending_does_nothing(ward, state):
    key = ward.owe(1, state=state)
    before = ward.row(key)
    assert ward.deliver(key) == []
    assert ward.row(key) == before


def test_a_wake_up_for_a_row_that_does_not_exist_does_nothing(ward):
    assert ward.deliver(4711) == []


def test_nothing_is_sent_before_it_is_due(ward):
    key = ward.owe(1, due_at=ward.clock.now() + timedelta(seconds=1))
    assert ward.deliver(key) == []
    ward.clock.advance(1)
    assert len(ward.deliver(key)) == 1


def test_a_retry_sends_only_what_the_peer_has_not_confirmed(ward):
    key = ward.owe(5)
    ward.archive.script = [ward.archive.take_then(3, RetryLater("connection lost"))]
    ward.deliver(key)
    row = ward.row(key)
    assert (row.state, row.items_delivered, row.reason) == (S.PENDING, 3, "connection lost")
    ward.clock.advance(timedelta(hours=1))
    ward.deliver(key)
    assert ward.row(key).state is S.DELIVERED
    assert len(ward.archive.received) == len(set(ward.archive.received)) == 5


def test_the_words_of_a_receiver_stay_with_the_delivery(ward):
    key = ward.owe(1)
    ward.archive.script = [RetryLater("AR: ZZNAME^ANN is locked")]
    ward.deliver(key)
    assert ward.row(key).reason == "AR: ZZNAME^ANN is locked"
    with ward.broker.units_of_work() as uow:
        assert uow.destinations.get("archive").reason == "AR", "how it is, everybody is shown"


def test_images_that_join_while_it_is_sent_go_out_too(ward):
    key = ward.owe(2)

    def late(parcel, settled):
        outcome = ward.archive.accept(parcel, settled)
        ward.join(key, 1)
        return outcome

    ward.archive.script = [late]
    attempts = ward.deliver(key)
    assert [attempt.settlement.state for attempt in attempts] == [S.PENDING, S.DELIVERED]
    assert len(ward.archive.received) == 3


def test_a_slice_ends_in_time_and_hands_the_rest_on(ward):
    key = ward.owe(5)

    def slow(parcel, settled):
        for item in parcel.items:
            ward.clock.advance(25)
            settled([ItemResult(item.id, ItemState.DELIVERED)])
        return Delivered()

    ward.archive.script = [slow]
    ward.queue.take()
    ward.deliver(key)
    row = ward.row(key)
    assert (row.state, row.items_delivered, row.failures) == (S.PENDING, 3, 0)
    assert row.due_at <= ward.clock.now()
    assert ward.queue.ids(Task.DELIVER) == [key]


def test_a_stopping_worker_gives_the_rest_back_at_once(ward):
    key, stopping = ward.owe(5), []

    def told_to_stop(parcel, settled):
        for item in parcel.items:
            settled([ItemResult(item.id, ItemState.DELIVERED)])
            stopping.append(True)
        return MoreToSend()

    ward.archive.script = [told_to_stop]
    ward.deliver(key, is_stopping=lambda: bool(stopping))
    row = ward.row(key)
    assert (row.state, row.items_delivered, row.due_at) == (S.PENDING, 1, ward.clock.now())


def test_a_partly_refused_delivery_is_dead_and_the_others_stay_delivered(ward):
    key = ward.owe(3)
    with ward.broker.units_of_work() as uow:
        refused = uow.deliveries.waiting_items(key, after=0, limit=10)[1].sop_instance_uid
    ward.archive.refuses = {refused}
    ward.deliver(key)
    row = ward.row(key)
    assert (row.state, row.items_delivered, row.items_rejected) == (S.DEAD, 2, 1)
    assert row.failure_class == "permanent"


def test_a_crash_after_the_last_item_needs_no_second_sending(ward):
    key = ward.owe(2)

    def die(parcel, settled):
        ward.archive.accept(parcel, settled)
        raise DatabaseUnavailable

    ward.archive.script = [die]
    (attempt,) = ward.deliver(key)
    assert attempt.settlement is None
    ward.clock.advance(timedelta(seconds=91))
    assert ward.sweep().expired == 1
    ward.deliver(key)
    assert ward.row(key).state is S.DELIVERED
    assert ward.archive.sends == 1


def test_a_single_image_and_the_end_of_its_delivery_are_one_commit(ward, monkeypatch):
    keys, commits = [ward.owe(1) for _ in range(10)], []
    kind = type(ward.broker.units_of_work())
    real = kind.commit
    monkeypatch.setattr(kind, "commit", lambda self: commits.append(1) or real(self))
    ward.deliver(keys[0])
    assert all(ward.row(key).state is S.DELIVERED and ward.row(key).items_delivered == 1 for key in keys)
    assert len(commits) == 1 + len(keys)  # the first claim; then each end claims the next


def test_a_single_image_that_must_not_repeat_is_noted_at_once(ward):
    printer = ward.broker.add("film", UnsafeDestination())
    key = ward.owe(1, destination="film")

    def look(parcel, settled):
        settled([ItemResult(next(parcel.items).id, ItemState.DELIVERED)])
        assert ward.row(key).items_delivered == 1
        return Delivered()

    printer.script = [look]
    ward.deliver(key)
    assert ward.row(key).state is S.DELIVERED


# ---- leases and fences


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


# ---- trouble


def test_an_exception_is_kept_without_its_text_and_retried(ward, sqlite_engine):
    key = ward.owe(2)
    ward.archive.script = [ward.archive.take_then(1, ValueError("HAYDN^JOSEPH"))]
    (attempt,) = ward.deliver(key)
    row = ward.row(key)
    assert (row.state, row.failure_class, row.items_delivered) == (S.PENDING, "internal", 1)
    assert "ValueError" in row.reason
    assert attempt.defect[0] == "ValueError"
    assert any("destination.py" in place for place in attempt.defect)
    with sqlite_engine.connect() as connection:
        details = connection.exec_driver_sql("SELECT group_concat(details) FROM event").scalar_one()
    assert "HAYDN" not in details + row.reason + "".join(attempt.defect)
    assert "destination.py" in details
    assert ward.health().state is DestinationHealth.UP


def test_an_exception_of_what_must_not_repeat_is_dead(ward):
    printer = ward.broker.add("film", UnsafeDestination())
    printer.script = [printer.take_then(0, RuntimeError())]
    key = ward.owe(1, destination="film")
    ward.deliver(key)
    assert (ward.row(key).state, ward.row(key).failure_class) == (S.DEAD, "unknown")


def test_an_unknown_result_is_repeated_only_where_that_is_safe(ward):
    printer = ward.broker.add("film", UnsafeDestination())
    ward.archive.script = [Unknown("no answer")]
    printer.script = [Unknown("no answer")]
    safe, unsafe = ward.owe(1), ward.owe(1, destination="film")
    ward.deliver(safe)
    ward.deliver(unsafe)
    assert ward.row(safe).state is S.PENDING
    assert ward.row(unsafe).state is S.DEAD
    assert "May have happened" in ward.row(unsafe).reason


def test_a_destination_that_confirms_nothing_does_not_turn_for_ever(ward):
    ward.archive.script = [Delivered("liar")]
    key = ward.owe(2)
    ward.deliver(key)
    row = ward.row(key)
    assert (row.state, row.failures) == (S.PENDING, 1)
    assert row.due_at > ward.clock.now()


def test_a_safekeeping_destination_is_tried_for_ever(ward):
    ward.broker.add("archive", safekeeping=True)
    archive = ward.broker.entries["archive"].plugin
    key = ward.owe(1)
    for _ in range(60):
        archive.script = [RetryLater("refused")]
        ward.deliver(key, **without_drain())
        assert ward.row(key).state is S.PENDING
        with ward.broker.units_of_work() as uow:  # the breaker has its own tests
            uow.destinations.save(replace(uow.destinations.get("archive"), failures=0, open_until=None))
            uow.commit()
        ward.clock.advance(timedelta(hours=2))
    ward.deliver(key)
    assert ward.row(key).state is S.DELIVERED


# ---- breaker and pauses


def fail(ward, times, reason="refused"):
    for _ in range(times):
        ward.archive.script = [RetryLater(reason)]
        ward.deliver(ward.owe(1), **without_drain())


def test_five_failures_in_a_row_open_the_breaker_and_open_costs_no_tries(ward):
    fail(ward, 4)
    assert ward.health().open_until is None
    fail(ward, 1)
    health = ward.health()
    assert health.state is DestinationHealth.FAILING
    assert health.open_until == ward.clock.now() + timedelta(seconds=60)
    key, sends = ward.owe(1), ward.archive.sends
    assert ward.deliver(key) == []
    assert (ward.archive.sends, ward.row(key).attempt) == (sends, 0)
    assert ward.sweep().due == ()


def test_trouble_of_our_own_disk_is_not_the_destinations(ward):
    for _ in range(6):
        ward.archive.script = [RetryLater("no handle left", ours=True)]
        ward.deliver(key := ward.owe(1), **without_drain())
        assert ward.row(key).state is S.PENDING
    assert ward.health() is None or ward.health().failures == 0


def test_a_success_between_keeps_the_breaker_closed(ward):
    fail(ward, 4)
    ward.deliver(ward.owe(1), **without_drain())
    assert ward.health().failures == 0
    fail(ward, 4)
    assert ward.health().open_until is None


def test_one_probe_closes_the_breaker(ward):
    fail(ward, 5)
    assert ward.sweep().probes == ()
    ward.clock.advance(60)
    assert ward.sweep().probes == ("archive",)
    key = ward.owe(1)
    assert ward.deliver(key) == []  # nothing is risked before the probe
    assert probe("archive", ward.broker, policy=LIMITS.breaker).ok
    assert ward.archive.checks == 1
    assert ward.health().state is DestinationHealth.UP
    ward.deliver(key)
    assert ward.row(key).state is S.DELIVERED


def test_only_one_worker_probes(ward):
    fail(ward, 5)
    ward.clock.advance(60)
    ward.archive.check = lambda: (
        probe("archive", ward.broker, policy=LIMITS.breaker) or ward.archive.check_result
    )
    assert probe("archive", ward.broker, policy=LIMITS.breaker) is ward.archive.check_result


def test_a_failed_probe_doubles_the_rest_up_to_a_quarter_of_an_hour(ward):
    fail(ward, 5)
    ward.archive.check_result = replace(ward.archive.check_result, ok=False)
    rests = []
    for _ in range(6):
        ward.clock.instant = ward.health().open_until
        probe("archive", ward.broker, policy=LIMITS.breaker)
        rests.append((ward.health().open_until - ward.clock.now()).total_seconds())
    assert rests == [120, 240, 480, 900, 900, 900]


def test_a_probe_that_raises_leaves_the_breaker_open(ward):
    fail(ward, 5)
    ward.clock.advance(60)

    def defect():
        raise RuntimeError("HAYDN")

    ward.archive.check = defect
    result = probe("archive", ward.broker, policy=LIMITS.breaker)
    assert (result.ok, result.detail) == (False, "Internal error: RuntimeError")
    assert ward.health().open_until > ward.clock.now()


def test_a_wrong_setting_pauses_the_destination_and_discards_nothing(ward):
    ward.archive.script = [Misconfigured("called AE title not recognised")]
    key, other = ward.owe(1), ward.owe(1)
    ward.deliver(key)
    health = ward.health()
    assert (health.state, health.reason) == (DestinationHealth.PAUSED, "called AE title not recognised")
    assert health.open_until == ward.clock.now() + timedelta(minutes=15)
    assert (ward.row(key).state, ward.row(other).state) == (S.PENDING, S.PENDING)
    assert ward.deliver(other) == []
    ward.clock.advance(timedelta(minutes=15))
    assert ward.sweep().probes == ("archive",)
    probe("archive", ward.broker, policy=LIMITS.breaker)
    ward.deliver(key)
    assert (ward.row(key).state, ward.row(other).state) == (S.DELIVERED, S.DELIVERED)


def test_a_destination_that_left_the_configuration_is_paused_visibly(ward):
    key = ward.owe(1, destination="gone")
    assert ward.sweep().due == ()
    (wake_up,) = ward.sweep(thorough=True).due
    assert wake_up.id == key
    assert ward.deliver(key) == []
    health = ward.health("gone")
    assert health.state is DestinationHealth.PAUSED
    assert "configuration" in health.reason
    assert ward.row(key).state is S.PENDING


def test_a_delivery_dies_when_its_destination_was_silent_for_its_whole_life(ward):
    ward.broker.add("archive", retry=RetryPolicy(life=timedelta(hours=1)))
    ward.archive = ward.broker.entries["archive"].plugin
    ward.archive.check_result = replace(ward.archive.check_result, ok=False)
    waiting = ward.owe(1)
    with ward.broker.units_of_work() as uow:
        uow.deliveries.move(
            waiting,
            source=S.PENDING,
            to=S.PENDING,
            due_at=ward.clock.now() + timedelta(minutes=5),
            reason=None,
            now=ward.clock.now(),
        )
        uow.commit()
    fail(ward, 5)
    ward.clock.advance(timedelta(minutes=64))
    assert ward.sweep(thorough=True).died == 5  # all but the one that became due later
    assert ward.row(waiting).state is S.PENDING
    ward.clock.advance(timedelta(minutes=1))
    assert ward.sweep(thorough=True).died == 1
    assert ward.row(waiting).state is S.DEAD


# ---- caps, order, priority


def test_a_destination_gets_no_more_at_once_than_its_cap(ward):
    keys, depth = [ward.owe(1) for _ in range(3)], []

    def nested(parcel, settled):
        depth.append(len(depth))
        with ward.broker.units_of_work() as uow:
            assert uow.deliveries.in_progress("archive") <= 2
        ward.deliver(keys[len(depth)], **without_drain())
        return ward.archive.accept(parcel, settled)

    ward.archive.script = [nested, nested]
    ward.deliver(keys[0], **without_drain())
    states = [ward.row(key).state for key in keys]
    assert states == [S.DELIVERED, S.DELIVERED, S.PENDING]
    assert [wake_up.id for wake_up in ward.sweep().due] == [keys[2]]


def test_messages_of_one_order_arrive_in_order_even_when_the_first_fails(ward):
    first, second = ward.owe_message("one"), ward.owe_message("two")
    other = ward.owe_message("other order", key="order 2")
    ward.archive.script = [RetryLater("silence")]
    ward.deliver(first, **without_drain())
    assert ward.deliver(second) == []
    ward.deliver(other, **without_drain())
    ward.clock.advance(timedelta(hours=1))
    ward.deliver(first)
    assert ward.archive.received == ["other order", "one", "two"]
    assert ward.row(second).state is S.DELIVERED


def test_urgent_deliveries_go_first(ward):
    ward.owe(1)
    first, stat = ward.owe(1), ward.owe(1, priority=1)
    order = []

    def note(parcel, settled):
        order.append(parcel.delivery)
        return ward.archive.accept(parcel, settled)

    ward.archive.script = [note] * 3
    ward.deliver(first)
    assert order[0] == stat  # whatever the wake-up names
    assert len(order) == 3


def test_a_worker_hands_its_place_on_when_its_time_is_over(ward):
    first, second = ward.owe(1), ward.owe(1)
    ward.queue.take()
    ward.deliver(first, **without_drain())
    (wake_up,) = ward.queue.take()
    assert (wake_up.id, wake_up.destination_kind, wake_up.destination) == (second, "fake", "archive")


# ---- sweep


def test_a_quiet_period_that_is_over_makes_the_delivery_due(ward):
    key = ward.owe(2, state=S.COLLECTING, due_at=ward.clock.now() + timedelta(seconds=30))
    assert ward.sweep().collected == 0
    ward.clock.advance(30)
    work = ward.sweep()
    assert (work.collected, [wake_up.id for wake_up in work.due]) == (1, [key])
    assert ward.row(key).state is S.PENDING


def test_images_nobody_decided_about_are_found_after_a_grace(ward):
    with ward.broker.units_of_work() as uow:
        (key,) = uow.instances.add_many([replace(an_instance(9000), received_at=ward.clock.now())])
        uow.commit()
    assert ward.sweep().unrouted == ()
    ward.clock.advance(3)
    assert ward.sweep().unrouted == (key,)


def test_every_move_is_an_event(ward, sqlite_engine):
    key = ward.owe(1)
    ward.archive.script = [RetryLater("refused")]
    ward.deliver(key)
    ward.clock.advance(timedelta(hours=1))
    ward.deliver(key)
    with sqlite_engine.connect() as connection:
        names = connection.exec_driver_sql(
            "SELECT name FROM event WHERE subject = 'delivery' AND subject_id = ? ORDER BY id", (key,)
        ).scalars()
        assert list(names) == [
            "delivery claimed",
            "delivery to be retried",
            "delivery claimed",
            "delivery delivered",
        ]
