"""What is owed is sent once: items, slices, retries, trouble, order and priority."""

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.delivery import Delivered, ItemState, MoreToSend, RetryLater, Unknown
from broker.domain.delivery import DeliveryState as S
from broker.errors import DatabaseUnavailable
from broker.workflow.destinations_port import DestinationHealth, ItemResult
from broker.workflow.wake_ups import Task
from tests.builders import an_instance
from tests.fakes.destination import UnsafeDestination
from tests.unit.workflow.delivery_ward import without_drain


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
