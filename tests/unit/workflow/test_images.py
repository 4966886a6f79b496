"""Receiving objects: new, again, and again with other content."""

from __future__ import annotations

from datetime import timedelta

import pytest

from broker.domain.delivery import DeliveryState, ItemState
from broker.domain.events import EventName
from broker.errors import DatabaseUnavailable
from broker.workflow.destinations_port import ItemResult
from broker.workflow.images import ReceivedObject, Reception, ResendPolicy, receive_images
from broker.workflow.images_port import InstanceState, StoredFile
from broker.workflow.unit_of_work import UnitsOfWork
from broker.workflow.wake_ups import Task
from tests.builders import a_delivery
from tests.fakes.clock import FakeClock
from tests.fakes.task_queue import RecordingTaskQueue

POLICY = ResendPolicy(frozenset({"archive"}), resend_after=timedelta(minutes=10))
UID = "1.2.826.0.2."


def an_object(number: int = 1, *, content: int | None = None, **changes: object) -> ReceivedObject:
    digest = bytes([number if content is None else content]) * 32
    values = {
        "file": StoredFile(f"20261121/0800/{number:032x}.dcm", 1000, 350, digest),
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "sop_instance_uid": f"{UID}{number}",
        "study_instance_uid": "1.2.826.0.1.1",
        "series_instance_uid": "1.2.826.0.1.1.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "facts": {"PatientID": ("PID1",), "AccessionNumber": ("A1",), "Modality": ("CT",)},
        "calling_ae_title": "CT1",
        "called_ae_title": "BROKER",
        "peer": "127.0.0.1",
        **changes,
    }
    return ReceivedObject(**values)  # type: ignore[arg-type]


@pytest.fixture
def receive(sqlite_uow_factory: UnitsOfWork, clock: FakeClock):
    def call(*objects: ReceivedObject):
        return receive_images(objects, sqlite_uow_factory, clock, policy=POLICY)

    return call


def rows(uows: UnitsOfWork):
    with uows() as uow:
        return uow.instances.of_study("1.2.826.0.1.1")


def events(engine, name: EventName) -> int:
    with engine.connect() as connection:
        return connection.exec_driver_sql(
            "SELECT count(*) FROM event WHERE name = ?", (name.value,)
        ).scalar_one()


def deliveries_of(uows: UnitsOfWork, instance: int):
    with uows() as uow:
        return uow.deliveries.of_instance(instance)


def deliver(
    uows: UnitsOfWork, clock: FakeClock, instances: list[int], state: DeliveryState, **changes
) -> int:
    """Make a delivery of some instances and bring it to a state as workers would."""
    with uows() as uow:
        key = uow.deliveries.add(a_delivery(**changes), now=clock.now())
        uow.deliveries.add_items(key, instances)
        claimed = uow.deliveries.claim(key, worker="w", now=clock.now(), lease=timedelta(seconds=90))
        assert claimed is not None
        if state is DeliveryState.DELIVERED:
            items = uow.deliveries.waiting_items(key, after=0, limit=100)
            results = [ItemResult(item.id, ItemState.DELIVERED, "0000") for item in items]
            assert uow.deliveries.settle_items(key, claimed.attempt, results, now=clock.now())
        assert uow.deliveries.settle(
            key,
            claimed.attempt,
            state=state,
            reason="because",
            failure_class=None,
            failures=3,
            due_at=clock.now(),
            now=clock.now(),
        )
        uow.commit()
    return key


def test_new_objects_become_rows_of_one_transaction_and_wake_routing(
    receive, sqlite_uow_factory, queue: RecordingTaskQueue, clock: FakeClock
) -> None:
    receipts = receive(an_object(1), an_object(2))
    assert [receipt.reception for receipt in receipts] == [Reception.NEW, Reception.NEW]
    first, second = rows(sqlite_uow_factory)
    assert [first.id, second.id] == [receipt.instance for receipt in receipts]
    assert first.state is InstanceState.RECEIVED
    assert (first.patient_id, first.accession_number, first.modality) == ("PID1", "A1", "CT")
    assert (first.received_at, first.peer, first.calling_ae_title) == (clock.now(), "127.0.0.1", "CT1")
    assert queue.ids(Task.ROUTE) == [first.id]


def test_the_same_content_again_is_counted_and_the_first_file_kept(
    receive, sqlite_uow_factory, sqlite_engine, clock: FakeClock
) -> None:
    (first,) = receive(an_object(1))
    clock.advance(60)
    again = an_object(1, file=StoredFile("20261121/0801/" + "f" * 32 + ".dcm", 1000, 350, b"\1" * 32))
    (receipt,) = receive(again)
    assert receipt.reception is Reception.REPEATED
    assert receipt.instance == first.instance
    (row,) = rows(sqlite_uow_factory)
    assert (row.path, row.resends, row.last_received_at) == (an_object(1).file.path, 1, clock.now())
    assert events(sqlite_engine, EventName.INSTANCE_REPEATED) == 1


def test_other_content_under_the_same_uid_keeps_both(receive, sqlite_uow_factory, sqlite_engine) -> None:
    receive(an_object(1))
    (receipt,) = receive(an_object(1, content=9))
    assert receipt.reception is Reception.NEW_VERSION
    assert [(row.version, row.state) for row in rows(sqlite_uow_factory)] == [
        (1, InstanceState.RECEIVED),
        (2, InstanceState.RECEIVED),
    ]
    assert events(sqlite_engine, EventName.INSTANCE_VERSION_RECEIVED) == 1
    assert receive(an_object(1))[0].reception is Reception.REPEATED, "the first version is still known"


def test_another_transfer_syntax_is_another_version(receive) -> None:
    receive(an_object(1))
    (receipt,) = receive(an_object(1, transfer_syntax_uid="1.2.840.10008.1.2.4.70"))
    assert receipt.reception is Reception.NEW_VERSION


def test_one_batch_may_hold_new_repeated_and_changed_objects_and_twins(receive, sqlite_uow_factory) -> None:
    receive(an_object(1), an_object(2))
    receipts = receive(an_object(1), an_object(2, content=8), an_object(3), an_object(3))
    assert [receipt.reception.name for receipt in receipts] == ["REPEATED", "NEW_VERSION", "NEW", "REPEATED"]
    assert len(rows(sqlite_uow_factory)) == 4


def test_identifiers_too_long_to_be_any_are_facts_but_no_keys(receive, sqlite_uow_factory) -> None:
    facts = {"PatientID": ("x" * 200,), "AccessionNumber": ("",), "Modality": ()}
    receive(an_object(1, facts=facts))
    (row,) = rows(sqlite_uow_factory)
    assert (row.patient_id, row.accession_number, row.modality) == (None, None, None)
    assert row.facts["PatientID"] == ("x" * 200,)


def test_a_resend_revives_the_dead_delivery_to_storage(
    receive, sqlite_uow_factory, clock: FakeClock, queue, sqlite_engine
) -> None:
    (first,), (second,) = receive(an_object(1)), receive(an_object(2))
    key = deliver(sqlite_uow_factory, clock, [first.instance, second.instance], DeliveryState.DEAD)
    queue.take()
    receive(an_object(1))
    with sqlite_uow_factory() as uow:
        revived = uow.deliveries.get(key)
        assert (revived.state, revived.failures, revived.due_at) == (DeliveryState.PENDING, 0, clock.now())
        assert uow.deliveries.count_waiting(key) == 2
    assert queue.ids(Task.DELIVER) == [key]
    assert events(sqlite_engine, EventName.DELIVERY_REOPENED) == 1


def test_a_resend_of_what_arrived_just_now_sends_nothing(
    receive, sqlite_uow_factory, clock: FakeClock
) -> None:
    (first,) = receive(an_object(1))
    deliver(sqlite_uow_factory, clock, [first.instance], DeliveryState.DELIVERED)
    clock.advance(timedelta(minutes=9))
    receive(an_object(1))
    assert len(deliveries_of(sqlite_uow_factory, first.instance)) == 1


def test_a_resend_of_what_arrived_long_ago_sends_it_again(
    receive, sqlite_uow_factory, clock: FakeClock
) -> None:
    (first,) = receive(an_object(1))
    old = deliver(sqlite_uow_factory, clock, [first.instance], DeliveryState.DELIVERED)
    clock.advance(timedelta(minutes=11))
    receive(an_object(1))
    before, after = deliveries_of(sqlite_uow_factory, first.instance)
    assert (before.id, before.state) == (old, DeliveryState.DELIVERED)
    assert (after.state, after.destination, after.route, after.items) == (
        DeliveryState.PENDING,
        "archive",
        "everything",
        1,
    )


def test_resending_a_whole_series_makes_one_delivery(receive, sqlite_uow_factory, clock: FakeClock) -> None:
    receipts = receive(*(an_object(n) for n in range(1, 6)))
    deliver(sqlite_uow_factory, clock, [r.instance for r in receipts], DeliveryState.DELIVERED)
    clock.advance(timedelta(minutes=11))
    for number in range(1, 6):
        receive(an_object(number))
    again = {deliveries_of(sqlite_uow_factory, receipt.instance)[-1].id for receipt in receipts}
    assert len(again) == 1


def test_a_resend_never_wakes_an_algorithm_or_a_printer(
    receive, sqlite_uow_factory, clock: FakeClock
) -> None:
    (first,) = receive(an_object(1))
    key = deliver(sqlite_uow_factory, clock, [first.instance], DeliveryState.DEAD, destination="cad")
    clock.advance(timedelta(hours=1))
    receive(an_object(1))
    (delivery,) = deliveries_of(sqlite_uow_factory, first.instance)
    assert (delivery.id, delivery.state) == (key, DeliveryState.DEAD)


def test_what_is_on_its_way_is_not_doubled_by_a_resend(receive, sqlite_uow_factory, clock: FakeClock) -> None:
    (first,) = receive(an_object(1))
    with sqlite_uow_factory() as uow:
        key = uow.deliveries.add(a_delivery(), now=clock.now())
        uow.deliveries.add_items(key, [first.instance])
        uow.commit()
    clock.advance(timedelta(hours=1))
    receive(an_object(1))
    assert [d.id for d in deliveries_of(sqlite_uow_factory, first.instance)] == [key]


def test_without_a_database_nothing_is_received(sqlite_uow_factory, clock: FakeClock, queue) -> None:
    class Away:
        def __call__(self):
            raise DatabaseUnavailable

    with pytest.raises(DatabaseUnavailable):
        receive_images([an_object(1)], Away(), clock, policy=POLICY)
    assert rows(sqlite_uow_factory) == []
    assert queue.wake_ups == []
