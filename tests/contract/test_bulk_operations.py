"""Operations on many deliveries on both databases: previews, slices, crashes, stops, keys."""

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.db.reports import SqlReports
from broker.domain.delivery import DeliveryState, ItemState, Priority
from broker.errors import Conflict, InvalidValue, NotFound
from broker.workflow import bulk
from broker.workflow.bulk import Wanted, advance, advance_all, start, stop
from broker.workflow.bulk_port import BulkState
from broker.workflow.destinations_port import ItemResult
from broker.workflow.idempotency import LIFE, forget_keys, request_key
from broker.workflow.operations import Act
from broker.workflow.preview import preview
from broker.workflow.selection import Selection, selection_of
from tests.builders import NOW, a_delivery, an_instance

S = DeliveryState
KINDS = {"archive": "dicom", "second": "dicom", "film": "print", "ris": "mllp"}


def kind_of(name):
    if name not in KINDS:
        raise NotFound(f"There is no destination {name}.")
    return KINDS[name]


class Ward:
    """Deliveries, and anna who acts on many of them."""

    def __init__(self, units_of_work, clock, engine):
        self.units_of_work, self.clock, self.engine = units_of_work, clock, engine
        self.reports = SqlReports(engine)
        self.numbers = iter(range(1, 100_000))

    def owe(self, count, state=S.DEAD, images=0, **changes):
        with self.units_of_work() as uow:
            keys = []
            for _ in range(count):
                delivery = a_delivery(next(self.numbers), state=state, reason="the peer cannot be reached")
                key = uow.deliveries.add(replace(delivery, **changes), now=NOW)
                new = [an_instance(next(self.numbers), size_bytes=1000) for _ in range(images)]
                if new:
                    uow.deliveries.add_items(key, uow.instances.add_many(new))
                keys.append(key)
            uow.commit()
        return keys

    def start(self, act, selection, **more):
        wanted = Wanted(act, selection, "anna", reason="the night", **more)
        return start(wanted, self.units_of_work, self.clock, kind_of=kind_of)

    def advance(self, operation):
        return advance(operation, self.units_of_work, self.clock, kind_of=kind_of)

    def run(self, act, selection, **more):
        operation = self.start(act, selection, **more)
        while (after := self.advance(operation)).state is BulkState.RUNNING:
            pass
        return after

    def rows(self, keys):
        with self.units_of_work() as uow:
            return [uow.deliveries.get(key) for key in keys]

    def states(self, keys):
        return [row.state for row in self.rows(keys)]

    def events(self, name):
        with self.engine.connect() as connection:
            return list(
                connection.exec_driver_sql(
                    f"SELECT subject_id, actor FROM event WHERE name = '{name}' ORDER BY id"
                )
            )

    def preview(self, act, selection, **more):
        return preview(
            Wanted(act, selection, "anna", **more),
            self.reports,
            kind_of=kind_of,
            concurrency_of=lambda name: 2,
        )


@pytest.fixture
def ward(uow_factory, clock, engine):
    return Ward(uow_factory, clock, engine)


def test_every_delivery_of_the_filter_is_retried_with_its_own_event(ward, monkeypatch):
    monkeypatch.setattr(bulk, "ROWS_PER_COMMIT", 2)
    mine = ward.owe(5)
    other = ward.owe(1, destination="second")
    after = ward.run(Act.RETRY, Selection(state=S.DEAD, destination="archive"), expected=5)
    assert (after.state, after.changed, after.skipped) == (BulkState.DONE, 5, 0)
    assert ward.states(mine) == [S.PENDING] * 5
    assert ward.states(other) == [S.DEAD]
    assert [tuple(row) for row in ward.events("delivery retried by a person")] == [(k, "anna") for k in mine]
    assert {row.operation for row in ward.rows(mine)} == {after.id}


def test_the_odd_one_is_counted_and_stops_nothing(ward):
    blocked = ward.owe(1, unit_uid="1.2.3")
    ward.owe(1, S.PENDING, unit_uid="1.2.3")
    mine = ward.owe(3)
    after = ward.run(Act.RETRY, Selection(state=S.DEAD))
    assert (after.changed, after.skipped) == (3, 1)
    assert after.skipped_why == {"its unit has another open delivery": 1}
    assert ward.states(blocked + mine) == [S.DEAD, S.PENDING, S.PENDING, S.PENDING]


def test_what_comes_after_the_confirm_is_left_alone(ward):
    seen = ward.owe(2)
    operation = ward.start(Act.CANCEL, Selection(state=S.DEAD))
    later = ward.owe(2)
    ward.advance(operation)
    assert ward.states(seen + later) == [S.CANCELLED, S.CANCELLED, S.DEAD, S.DEAD]


def test_a_slice_that_is_not_committed_is_done_again_as_if_it_had_never_been(ward, monkeypatch):
    monkeypatch.setattr(bulk, "ROWS_PER_COMMIT", 2)
    keys = ward.owe(3)
    operation = ward.start(Act.CANCEL, Selection())
    ward.advance(operation)
    with ward.units_of_work() as uow:
        uow.bulk.save(replace(uow.bulk.get(operation, lock=True), position=10_000))
    while ward.advance(operation).state is BulkState.RUNNING:
        pass
    assert ward.states(keys) == [S.CANCELLED] * 3
    assert len(ward.events("delivery cancelled by a person")) == 3


def test_a_stopped_operation_goes_no_further_and_says_who_stopped_it(ward, monkeypatch):
    monkeypatch.setattr(bulk, "ROWS_PER_COMMIT", 2)
    keys = ward.owe(4)
    operation = ward.start(Act.CANCEL, Selection())
    ward.advance(operation)
    assert stop(operation, ward.units_of_work, ward.clock, actor="ben")
    assert not stop(operation, ward.units_of_work, ward.clock, actor="ben")
    assert ward.advance(operation).state is BulkState.STOPPED
    assert ward.states(keys) == [S.CANCELLED, S.CANCELLED, S.DEAD, S.DEAD]
    assert [tuple(row) for row in ward.events("bulk operation stopped by a person")] == [(operation, "ben")]


def test_cancelling_is_undone_by_retrying_what_the_operation_touched(ward):
    before = ward.owe(1, S.CANCELLED)
    keys = ward.owe(3)
    done = ward.run(Act.CANCEL, Selection(state=S.DEAD))
    undone = ward.run(Act.RETRY, Selection(operation=done.id))
    assert undone.changed == 3
    assert ward.states(before + keys) == [S.CANCELLED, S.PENDING, S.PENDING, S.PENDING]


def test_what_is_not_delivered_goes_to_another_destination(ward):
    (key,) = ward.owe(1, S.PENDING, images=3)
    with ward.units_of_work() as uow:
        claimed = uow.deliveries.claim(key, worker="w", now=NOW, lease=timedelta(seconds=90))
        items = uow.deliveries.waiting_items(key, after=0, limit=3)
        results = [ItemResult(items[0].id, ItemState.DELIVERED), ItemResult(items[1].id, ItemState.REJECTED)]
        uow.deliveries.settle_items(key, claimed.attempt, results, now=NOW)
        uow.deliveries.settle(
            key,
            claimed.attempt,
            state=S.DEAD,
            reason="1 of 3 refused",
            failure_class="permanent",
            failures=0,
            due_at=NOW,
            now=NOW,
        )
        uow.commit()
    after = ward.run(Act.RETARGET, Selection(destination="archive"), to="second")
    assert after.changed == 1
    (old,) = ward.rows([key])
    (new,) = [
        line.id
        for line in ward.reports.select_deliveries(Selection(destination="second", operation=after.id))
    ]
    with ward.units_of_work() as uow:
        sent = [item.instance for item in uow.deliveries.waiting_items(new, after=0, limit=9)]
    assert old.state is S.CANCELLED
    assert old.reason == f"Sent to second instead by anna: delivery {new}."
    assert sent == [items[1].instance, items[2].instance]
    assert ward.states([new]) == [S.PENDING]


def test_messages_are_not_sent_to_archives_nor_images_to_printers(ward):
    message = ward.owe(1, destination="ris", kind="mllp", payload=b"MSH|")
    images = ward.owe(1)
    for to in ("second", "film", "ris"):
        ward.run(Act.RETARGET, Selection(destination="ris"), to=to)
    ward.run(Act.RETARGET, Selection(destination="archive"), to="film")
    assert ward.states(message + images) == [S.DEAD, S.DEAD]
    with pytest.raises(NotFound):
        ward.start(Act.RETARGET, Selection(), to="nowhere")
    with pytest.raises(InvalidValue, match="which destination"):
        ward.start(Act.RETARGET, Selection())


def test_urgent_ones_go_first(ward):
    first, second, third = ward.owe(3, S.PENDING)
    ward.run(Act.PRIORITY, Selection(ids=(third,)), priority=Priority.URGENT)
    with ward.units_of_work() as uow:
        assert uow.deliveries.next_due("archive", now=NOW, limit=3) == [third, first, second]
        assert uow.deliveries.more_urgent("archive", than=4, now=NOW) == third
        assert uow.deliveries.more_urgent("archive", than=1, now=NOW) is None
    again = ward.run(Act.PRIORITY, Selection(ids=(third,)), priority=Priority.URGENT)
    assert (again.changed, again.skipped_why) == (0, {"nothing was to be changed": 1})


def test_several_operations_are_worked_off_in_turn_until_the_time_is_over(ward, monkeypatch):
    monkeypatch.setattr(bulk, "ROWS_PER_COMMIT", 1)
    keys = ward.owe(4, S.PENDING)
    ward.start(Act.CANCEL, Selection(ids=tuple(keys[:2])))
    ward.start(Act.PRIORITY, Selection(ids=tuple(keys[2:])), priority=Priority.LOW)
    left = iter([False, False, False, True])
    args = (ward.units_of_work, ward.clock)
    assert advance_all(*args, kind_of=kind_of, is_over=lambda: next(left)) == 2
    assert advance_all(*args, kind_of=kind_of, is_over=lambda: False) == 4
    assert ward.states(keys) == [S.CANCELLED, S.CANCELLED, S.PENDING, S.PENDING]
    assert advance_all(*args, kind_of=kind_of, is_over=lambda: False) == 0


def test_the_same_request_makes_one_operation_and_another_one_with_its_key_is_refused(ward):
    ward.owe(1)
    key = request_key("night-1", actor="anna", asked="retry dead")
    first = ward.start(Act.RETRY, Selection(state=S.DEAD), key=key)
    assert ward.start(Act.RETRY, Selection(state=S.DEAD), key=key) == first
    with pytest.raises(Conflict, match="another request"):
        ward.start(
            Act.CANCEL, Selection(), key=request_key("night-1", actor="anna", asked="cancel everything")
        )
    assert len(ward.reports.operations()) == 1
    ward.clock.advance(LIFE)
    assert forget_keys(ward.units_of_work, ward.clock) == 1
    assert ward.start(Act.RETRY, Selection(state=S.DEAD), key=key) != first


def test_a_destination_that_left_the_site_file_stops_the_operation_visibly(ward, monkeypatch):
    ward.owe(2)
    operation = ward.start(Act.RETARGET, Selection(), to="second", expected=2)
    monkeypatch.delitem(KINDS, "second")
    after = ward.advance(operation)
    assert (after.state, after.changed) == (BulkState.STOPPED, 0)
    assert after.skipped_why == {"There is no destination second.": 2}


def test_a_preview_tells_how_much_and_what_is_left_out(ward):
    ward.owe(2, images=3)
    ward.owe(1, images=1, unit_uid="1.2.3")
    ward.owe(1, S.PENDING, images=1, unit_uid="1.2.3")
    ward.owe(1, S.DELIVERED)
    ward.owe(1, S.COLLECTING)
    told = ward.preview(Act.RETRY, Selection(destination="archive"))
    assert (told.deliveries, told.images, told.bytes, told.is_exact) == (3, 8, 8000, True)
    assert [(left.deliveries, left.why) for left in told.excluded] == [
        (1, "another delivery of the same unit is open: it is sent by that"),
        (1, "delivered already"),
        (1, "still collecting images"),
    ]
    assert told.destinations == ("archive",)
    assert told.seconds is None  # nothing was sent there lately
    assert told.selection.up_to == ward.reports.newest_delivery()


def test_the_time_is_told_from_what_the_destination_did_lately(ward):
    for key in ward.owe(2, S.PENDING, images=4):
        with ward.units_of_work() as uow:
            claimed = uow.deliveries.claim(key, worker="w", now=NOW, lease=timedelta(seconds=90))
            items = uow.deliveries.waiting_items(key, after=0, limit=9)
            later = NOW + timedelta(seconds=8)
            results = [ItemResult(item.id, ItemState.DELIVERED) for item in items]
            uow.deliveries.settle_items(key, claimed.attempt, results, now=later)
            values = {"reason": None, "failure_class": None, "failures": 0, "due_at": later}
            uow.deliveries.settle(key, claimed.attempt, state=S.DELIVERED, now=later, **values)
            uow.commit()
    ward.owe(1, images=10)
    assert ward.preview(Act.RETRY, Selection(state=S.DEAD)).seconds == 10  # 2 s an image, two at once
    assert ward.preview(Act.CANCEL, Selection(state=S.DEAD)).seconds is None


def test_a_selection_survives_being_stored():
    selection = Selection(
        state=S.DEAD,
        destination="a",
        cause="timeout",
        route="r",
        study_instance_uid="1.2",
        since=NOW,
        until=NOW + timedelta(days=1),
        operation=3,
        ids=(1, 2),
        up_to=9,
    )
    assert selection_of(selection.stored()) == selection
    assert selection_of({}) == Selection()
    assert Selection(up_to=4).is_everything
    assert not selection.is_everything
