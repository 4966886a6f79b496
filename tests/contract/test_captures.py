"""Wire captures on both databases: who may have how much, events of every act, and an end that comes by itself."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from broker.db.engine import reading
from broker.db.schema import EVENT
from broker.errors import Conflict, InvalidValue, NotFound, StorageFull
from broker.workflow.accounts import Caller
from broker.workflow.captures import CaptureOperations, WantedCapture
from broker.workflow.captures_port import MOST_RUNNING, Capture, Recorded
from broker.workflow.devices import Welcome, admit
from broker.workflow.idempotency import request_key

CT1 = WantedCapture("dicom", "CT1", "", 10, "exams without images", "ada")
ADA = Caller("ada", "10.0.0.9")
DAY = timedelta(hours=24)


class Shelf:
    """Keeps bytes of captures in memory; may be full, and may fail to remove."""

    def __init__(self):
        self.bytes, self.is_full, self.sticks = {}, False, False

    def has_room(self):
        return not self.is_full

    def recorded(self, capture):
        return Recorded(size_bytes=len(self.bytes.get(capture, b"")))

    def read(self, capture):
        yield self.bytes.get(capture, b"")

    def remove(self, capture):
        if not self.sticks:
            self.bytes.pop(capture, None)
        return not self.sticks

    def kept(self):
        return sorted(self.bytes)


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def captures(uow_factory, reports, shelf, clock):
    return CaptureOperations(uow_factory, reports, shelf, clock, keep=DAY)


@pytest.fixture
def events(engine):
    def read():
        with reading(engine) as connection:
            rows = connection.execute(select(EVENT).order_by(EVENT.c.id)).mappings()
            return [(row["name"], row["actor"], row["subject_id"], row["details"]) for row in rows]

    return read


def test_a_capture_runs_for_its_time_and_its_bytes_are_removed_a_day_later(
    captures, reports, shelf, clock, events
):
    begun = captures.start(CT1)
    shelf.bytes[begun.id] = b"12345"
    (known,) = reports.standing_orders(now=clock.now()).captures
    assert known == begun
    assert known.until - known.since == timedelta(minutes=10)
    assert captures.tidy() == 0
    clock.advance(timedelta(minutes=10))
    assert reports.standing_orders(now=clock.now()).captures == []
    assert captures.tidy() == 1
    over = reports.capture(begun.id)
    assert (over.ended_at, over.ended_by) == (begun.until, "broker")
    clock.advance(DAY - timedelta(seconds=1))
    assert captures.tidy() == 0
    assert captures.removed_at(over) == begun.until + DAY
    clock.advance(1)
    assert captures.tidy() == 2, "the row, and the bytes"
    assert captures.tidy() == 0
    assert shelf.bytes == {}
    assert reports.capture(begun.id).deleted_by == "broker"
    told = events()
    assert [event[:3] for event in told] == [
        ("capture started by a person", "ada", begun.id),
        ("capture over", "broker", begun.id),
        ("capture expired", "broker", begun.id),
    ]
    assert told[0][3]["why"] == "exams without images"
    assert [event[3].get("bytes") for event in told] == [None, 5, 5]


def test_who_takes_it_away_is_written_down_before_a_byte_leaves(captures, shelf, events):
    begun = captures.start(CT1)
    shelf.bytes[begun.id] = b"12345"
    known, pieces = captures.download(begun.id, by=ADA, page="/api/captures/{capture}/pcap")
    assert known == begun
    assert [event[:3] for event in events()[1:]] == [
        ("capture downloaded by a person", "ada", begun.id),
        ("viewed", "ada", begun.id),
    ]
    assert events()[2][3] == {
        "address": "10.0.0.9",
        "page": "/api/captures/{capture}/pcap",
        "how": "downloaded",
    }
    assert b"".join(pieces) == b"12345"
    captures.download(begun.id, by=ADA, page="x")
    assert len(events()) == 5, "each time"


def test_it_is_stopped_once_and_deleted_once(captures, reports, shelf, clock, events):
    begun, other = captures.start(CT1), captures.start(replace(CT1, protocol="hl7", name="RIS"))
    shelf.bytes = {begun.id: b"1", other.id: b"2"}
    assert captures.stop(begun.id, actor="bob")
    assert not captures.stop(begun.id, actor="bob")
    assert [one.id for one in reports.standing_orders(now=clock.now()).captures] == [other.id]
    assert captures.delete(begun.id, actor="bob")
    assert not captures.delete(begun.id, actor="bob")
    with pytest.raises(NotFound):
        captures.download(begun.id, by=ADA, page="x")
    assert captures.delete(other.id, actor="bob"), "one that runs is stopped first"
    assert shelf.bytes == {}
    assert [event[0] for event in events()][2:] == [
        "capture stopped by a person",
        "capture deleted by a person",
        "capture stopped by a person",
        "capture deleted by a person",
    ]
    assert captures.start(CT1).id not in {begun.id, other.id}
    for act in (captures.stop, captures.delete):
        with pytest.raises(NotFound):
            act(4711, actor="bob")


def test_what_a_listener_writes_after_the_removal_goes_too_and_what_sticks_is_tried_again(captures, shelf):
    begun, kept = captures.start(CT1), captures.start(replace(CT1, name="CT2"))
    shelf.bytes = {begun.id: b"1", kept.id: b"2", 4711: b"of nobody"}
    shelf.sticks = True
    captures.delete(begun.id, actor="ada")
    assert begun.id in shelf.bytes
    assert captures.tidy() == 0
    shelf.sticks = False
    assert captures.tidy() == 2
    assert list(shelf.bytes) == [kept.id]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"protocol": "http"}, "protocol"),
        ({"name": "", "address": ""}, "name"),
        ({"name": "A" * 17}, "name"),
        ({"name": "\u202eTC"}, "name"),
        ({"protocol": "hl7", "name": "A" * 65}, "name"),
        ({"protocol": "hl7", "name": "R\nIS"}, "name"),
        ({"address": "everywhere"}, "address"),
        ({"minutes": 0}, "minutes"),
        ({"minutes": 61}, "minutes"),
        ({"reason": " "}, "reason"),
        ({"reason": "x" * 501}, "reason"),
    ],
)
def test_a_wrong_wish_says_where_and_changes_nothing(changes, field, captures, reports, events):
    with pytest.raises(InvalidValue) as refused:
        captures.start(replace(CT1, **changes))
    assert refused.value.field == field
    assert str(refused.value).startswith(field)
    assert reports.captures() == []
    assert events() == []


def test_the_same_is_not_captured_twice_nor_more_than_the_listeners_bear(captures, shelf):
    captures.start(CT1)
    with pytest.raises(Conflict, match="captured already"):
        captures.start(replace(CT1, name=" CT1 "))
    for number in range(MOST_RUNNING - 1):
        captures.start(replace(CT1, name="", address=f"10.1.{number}.7/24"))
    with pytest.raises(Conflict, match="run already"):
        captures.start(replace(CT1, name="CT2"))
    assert captures.stop(1, actor="ada")
    shelf.is_full = True
    with pytest.raises(StorageFull):
        captures.start(CT1)
    shelf.is_full = False
    assert captures.start(CT1)


def test_asking_twice_with_a_key_starts_once(captures, reports):
    wanted = replace(CT1, key=request_key("k", actor="ada", asked="CT1"))
    assert captures.start(wanted).id == captures.start(wanted).id
    assert len(reports.captures()) == 1
    with pytest.raises(Conflict):
        captures.start(replace(CT1, key=request_key("k", actor="ada", asked="CT2")))


def test_listeners_are_told_everything_in_one_answer(captures, reports, uow_factory, clock):
    assert reports.standing_orders(now=clock.now()).admissions == []
    admitted = admit(Welcome("LOANER", "10.1.4.17", timedelta(hours=1), "loaner", "ruiz"), uow_factory, clock)
    begun = captures.start(replace(CT1, address="10.1.4.0/24"))
    orders = reports.standing_orders(now=clock.now())
    assert orders.admissions == [admitted]
    assert orders.captures == [begun]
    assert reports.standing_orders(now=admitted.until).admissions == []


def test_a_list_is_told_by_name_and_whom_one_hears(captures, reports, clock):
    first, second = captures.start(CT1), captures.start(replace(CT1, name="", address="10.1.4.0/24"))
    captures.start(replace(CT1, protocol="hl7", name="CT1"))
    assert [one.id for one in reports.captures(name="CT1", protocol="dicom")] == [first.id]
    assert [one.about for one in reports.captures()] == ["CT1", "10.1.4.0/24", "CT1"]
    assert first.hears("CT1", ())
    assert not first.hears("CT2", ())
    assert second.hears("CT9", ["10.9.9.9", "10.1.4.200"])
    assert not second.hears("CT1", ["10.1.5.1"])
    told = captures.told(first)
    assert told["running"]
    assert told["removed_at"] == first.until + DAY
    assert not Capture(**{**{n: told[n] for n in Capture.__slots__}, "ended_at": clock.now()}).runs(
        clock.now()
    )
