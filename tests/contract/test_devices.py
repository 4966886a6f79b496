"""What is kept of devices, on both databases: bounded whoever knocks, and admissions that end."""

from dataclasses import replace
from datetime import UTC, timedelta

import pytest

from broker.domain.events import EventName
from broker.domain.knocks import KnockReason
from broker.errors import Conflict, InvalidValue, NotFound
from broker.workflow.device_reports import StartTime
from broker.workflow.devices import (
    KnownDevice,
    Welcome,
    admit,
    clock_offset,
    end_admission,
    read_devices,
    tidy_devices,
)
from broker.workflow.devices_port import (
    CONVERSATIONS_KEPT,
    MANY,
    MOST_HEARD,
    MOST_KNOCKS,
    MOST_KNOCKS_OF_ADDRESS,
    Conversation,
    KnockKey,
    Knocks,
    Sign,
)
from tests.builders import NOW, a_performed_step

HOUR = timedelta(hours=1)
LOANER = Welcome("LOANER", "10.1.4.17", 8 * HOUR, "tube of CT2 is broken", "ruiz")


def knocks(title="LOANER", address="10.1.4.17", reason=KnockReason.UNKNOWN_TITLE, number=1, at=NOW):
    return Knocks(KnockKey(title, "BROKER", address, reason), number, at, at)


def a_sign(title="CT1", what="echo", at=NOW, status=0, detail=""):
    return Sign(title, what, at, status, detail, "10.1.4.1")


def events(reports, name):
    with reports._reading() as connection:
        rows = connection.exec_driver_sql("SELECT name, actor FROM event ORDER BY id").all()
    return [actor for found, actor in rows if found == name.value]


def test_a_loaner_is_let_in_for_its_time_and_no_longer(reports, uow_factory, clock):
    admitted = admit(LOANER, uow_factory, clock)
    assert [one.ae_title for one in reports.admitted(now=clock.now())] == ["LOANER"]
    assert reports.admitted(now=admitted.until) == []
    assert tidy_devices(uow_factory, clock) == 0
    clock.advance(8 * HOUR)
    assert tidy_devices(uow_factory, clock) == 1
    (kept,) = reports.admissions()
    assert (kept.ended_at, kept.ended_by) == (admitted.until, "broker")
    assert events(reports, EventName.DEVICE_ADMITTED) == ["ruiz"]
    assert events(reports, EventName.DEVICE_ADMISSION_OVER) == ["broker"]


def test_an_admission_is_ended_early_once(reports, uow_factory, clock):
    admitted = admit(LOANER, uow_factory, clock)
    assert end_admission(admitted.id, uow_factory, clock, actor="ada")
    assert not end_admission(admitted.id, uow_factory, clock, actor="ada")
    assert reports.admitted(now=clock.now()) == []
    assert events(reports, EventName.DEVICE_ADMISSION_ENDED) == ["ada"]
    with pytest.raises(NotFound):
        end_admission(4711, uow_factory, clock, actor="ada")
    assert admit(LOANER, uow_factory, clock).id != admitted.id


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ae_title": ""}, "ae_title"),
        ({"ae_title": "A" * 17}, "ae_title"),
        ({"ae_title": "\u202eTC"}, "ae_title"),
        ({"address": "scanner"}, "address"),
        ({"address": ""}, "address"),
        ({"stay": timedelta(0)}, "hours"),
        ({"stay": timedelta(days=15)}, "hours"),
        ({"reason": " "}, "reason"),
        ({"reason": "x" * 501}, "reason"),
    ],
)
def test_a_wrong_admission_says_where_and_changes_nothing(changes, field, reports, uow_factory, clock):
    with pytest.raises(InvalidValue) as refused:
        admit(replace(LOANER, **changes), uow_factory, clock)
    assert refused.value.field == field
    assert reports.admissions() == []


def test_the_same_device_is_not_let_in_twice(uow_factory, clock):
    admit(LOANER, uow_factory, clock)
    with pytest.raises(Conflict):
        admit(LOANER, uow_factory, clock)
    assert admit(replace(LOANER, address="10.1.4.0/24"), uow_factory, clock).address == "10.1.4.0/24"


def test_refusals_alike_are_one_row_and_told_again_after_an_hour(reports, store):
    assert store(lambda uow: len(uow.devices.note_knocks([knocks(number=3)]))) == 1
    soon, later = NOW + timedelta(minutes=5), NOW + timedelta(hours=2)
    assert store(lambda uow: uow.devices.note_knocks([knocks(number=2, at=soon)])) == []
    assert store(lambda uow: len(uow.devices.note_knocks([knocks(at=later)]))) == 1
    (row,) = reports.knocks()
    assert (row.number, row.first_at, row.last_at) == (6, NOW, later)


def test_no_flood_fills_the_table_and_another_address_is_still_seen(reports, store):
    flood = [knocks(f"T{number}", "10.9.9.9") for number in range(MOST_KNOCKS_OF_ADDRESS + 50)]
    store(lambda uow: uow.devices.note_knocks(flood))
    store(lambda uow: uow.devices.note_knocks([knocks()]))
    rows = reports.knocks(limit=MOST_KNOCKS)
    assert len(rows) == MOST_KNOCKS_OF_ADDRESS + 2
    assert sum(row.number for row in rows if row.key.ae_title == MANY) == 50
    assert any(row.key == knocks().key for row in rows)
    everywhere = [knocks(f"T{n}", f"10.8.{n // 250}.{n % 250}") for n in range(MOST_KNOCKS)]
    store(lambda uow: uow.devices.note_knocks(everywhere))
    rows = reports.knocks(limit=2 * MOST_KNOCKS)
    assert len(rows) == MOST_KNOCKS + 1
    assert sum(row.number for row in rows) == MOST_KNOCKS_OF_ADDRESS + 51 + MOST_KNOCKS


@pytest.mark.parametrize("title", ["<script>", "=cmd|", "a\x00b", "\u202egnp", ""])
def test_a_hostile_title_is_kept_as_evidence(title, reports, store):
    store(lambda uow: uow.devices.note_knocks([knocks(title)] * 2))
    (row,) = reports.knocks()
    assert row.number == 2


def test_the_newest_sign_of_each_kind_is_kept(reports, store):
    old = NOW - HOUR
    signs = [a_sign(), a_sign(at=old, status=0xA700), a_sign(what="list", at=old, detail="3 entries")]
    store(lambda uow: uow.devices.note_signs(signs, listed=frozenset()))
    kept = reports.heard_devices()["CT1"]
    assert kept.signs["echo"].at == NOW
    assert kept.signs["echo"].ok
    assert kept.signs["list"].detail == "3 entries"
    assert kept.last_at == NOW


def test_strangers_beyond_the_bound_leave_room_for_listed_devices(reports, store):
    strangers = [a_sign(f"T{number}") for number in range(MOST_HEARD + 5)]
    store(lambda uow: uow.devices.note_signs(strangers, listed=frozenset()))
    store(lambda uow: uow.devices.note_signs([a_sign("CT1")], listed=frozenset({"CT1"})))
    assert len(reports.heard_devices()) == MOST_HEARD + 1
    assert "CT1" in reports.heard_devices()


def test_the_last_conversations_of_a_heard_device_are_kept(reports, store):
    def talk(number, title="CT1"):
        return Conversation(
            title, f"a-{number}", "10.1.4.1", "X", NOW, NOW, {"echo": number}, 0, "the peer released it"
        )

    store(lambda uow: uow.devices.note_signs([a_sign()], listed=frozenset()))
    store(lambda uow: uow.devices.note_conversations([talk(n) for n in range(15)] + [talk(1, "NOBODY")]))
    store(lambda uow: uow.devices.note_conversations([talk(n) for n in range(15, 30)]))
    kept = reports.conversations("CT1")
    assert [one.association for one in kept] == [f"a-{n}" for n in range(29, 29 - CONVERSATIONS_KEPT, -1)]
    assert kept[0].served == {"echo": 29}
    assert reports.conversations("NOBODY") == []


def test_what_is_old_is_forgotten(reports, store, uow_factory, clock):
    store(lambda uow: uow.devices.note_signs([a_sign(at=NOW - 40 * 24 * HOUR)], listed=frozenset()))
    store(lambda uow: uow.devices.note_knocks([knocks(at=NOW - 40 * 24 * HOUR), knocks("CT9")]))
    tidy_devices(uow_factory, clock)
    assert [row.key.ae_title for row in reports.knocks()] == ["CT9"]
    assert reports.heard_devices() == {}


def test_the_list_names_who_is_refused_first_and_whom_to_call(reports, store, uow_factory, clock):
    known = [
        KnownDevice("CT1", "10.1.4.1", ("CT",), "CT console, 4711"),
        KnownDevice("MR1", "", ("MR",), ""),
        KnownDevice("US1", "", ("US",), ""),
    ]
    store(lambda uow: uow.devices.note_signs([a_sign("CT1"), a_sign("MR1")], listed=frozenset()))
    before, after = NOW - HOUR, NOW + timedelta(seconds=1)
    store(
        lambda uow: uow.devices.note_knocks(
            [knocks("CT1", at=before), knocks("MR1", reason=KnockReason.WRONG_CALLED, at=after)]
        )
    )
    admit(LOANER, uow_factory, clock)
    found = read_devices(reports, known, now=clock.now(), zone=UTC)
    assert [(one.ae_title, one.state) for one in found] == [
        ("MR1", "refused"),
        ("LOANER", "admitted"),
        ("CT1", "unknown"),
        ("US1", "never heard"),
    ]
    assert found[2].known.contact == "CT console, 4711"
    assert found[2].knocks == []


def test_a_clock_is_judged_by_the_exam_that_was_told_soonest(reports, store):
    def make(uow):
        for number, (said, at) in enumerate(
            [("20261121101000", 600), ("20261121100200", 5), ("2026112110", 0), ("20261121100000", 900)]
        ):
            step = a_performed_step(number, started_at=said)
            uow.performed.add(step, now=NOW.replace(hour=10, minute=0, second=0) + timedelta(seconds=at))

    store(make)
    starts = reports.exam_starts(["CT1", "MR1"])
    offset = clock_offset(starts["CT1"], zone=UTC)
    assert (offset.ahead, offset.exams, offset.is_off) == (timedelta(seconds=115), 3, True)
    assert "MR1" not in starts
    assert (
        clock_offset([StartTime("00000000000000", NOW), StartTime("20200101000000", NOW)], zone=UTC) is None
    )
