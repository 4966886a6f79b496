"""What people can list, on both databases."""

from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from broker.db.heartbeats import beat, retire
from broker.db.reports import SqlReports
from broker.domain.delivery import DeliveryState, ItemState
from broker.domain.events import Event, EventName, Subject
from broker.domain.orders import WorklistEntry
from broker.domain.steps import StepStatus
from broker.errors import NotFound
from broker.workflow.decisions_port import StoredDecision
from broker.workflow.destinations_port import DestinationHealth, DestinationState, ItemResult
from broker.workflow.images_port import InstanceState
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.reports_port import MAX_PAGE, MOST_ROWS, Page, Reports
from tests.builders import (
    NOW,
    a_delivery,
    a_message,
    a_patient,
    a_performed_step,
    a_step,
    a_stored_entry,
    an_instance,
)

STUDY = "1.2.826.0.1.1"


@pytest.fixture
def reports(engine) -> Reports:
    return SqlReports(engine)


@pytest.fixture
def entries(store):
    """Three steps on two days, of which one lacks a name."""

    def make(uow):
        first = a_stored_entry(uow, 1, procedure={"attributes": {"RequestedProcedurePriority": "STAT"}})
        second = a_stored_entry(
            uow,
            2,
            patient=uow.patients.add(a_patient(2, name="Müller^Eva"), now=NOW),
            step={
                "start_time": "080000",
                "modality": "MR",
                "station_ae_titles": ("MR1", "MR2"),
                "attributes": {"ScheduledProcedureStepDescription": "MR KNEE"},
            },
        )
        third = a_stored_entry(
            uow, 3, step={"start_date": "20261122", "missing": ("Modality",), "time_unspecified": True}
        )
        return [first, second, third]

    return store(make)


def ids(lines, name="sps_id"):
    return [getattr(line, name) for line in lines]


def test_a_days_worklist_is_listed_by_start(reports, entries):
    lines = reports.worklist(date="20261121")
    assert ids(lines) == ["SPS2", "SPS1"]
    assert [line.start for line in lines] == ["2026-11-21 08:00", "2026-11-21 09:30"]
    assert lines[0].description == "MR KNEE"
    assert lines[0].station_ae_titles == ("MR1", "MR2")
    assert (lines[1].patient_name, lines[1].birth_date) == ("HAYDN1^JOSEPH", "17320331")
    assert (lines[1].priority, lines[1].order_id) == ("STAT", entries[0].order.id)


def test_without_a_day_the_latest_steps_come_first(reports, entries):
    lines = reports.worklist()
    assert ids(lines) == ["SPS3", "SPS1", "SPS2"]
    assert (lines[0].start, lines[0].missing) == ("2026-11-22", ("Modality",))
    assert ids(reports.worklist(page=Page(limit=1, offset=1))) == ["SPS1"]


def test_steps_without_a_date_come_last_on_whatever_page(reports, entries, store):
    store(lambda uow: [a_stored_entry(uow, n, step={"start_date": None, "start_time": None}) for n in (7, 8)])
    everything = ["SPS3", "SPS1", "SPS2", "SPS8", "SPS7"]
    assert ids(reports.worklist()) == everything
    for offset in range(6):
        for limit in range(1, 4):
            assert ids(reports.worklist(page=Page(limit, offset))) == everything[offset : offset + limit]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"modality": "mr"}, ["SPS2"]),
        ({"station": "mr2"}, ["SPS2"]),
        ({"station": "MR"}, []),
        ({"status": "scheduled", "date": "20261122"}, ["SPS3"]),
        ({"text": "muller"}, ["SPS2"]),
        ({"text": "HAYDN"}, ["SPS3", "SPS1"]),
        ({"text": "ID2"}, ["SPS2"]),
        ({"text": "A1"}, ["SPS1"]),
        ({"text": "%"}, []),
        ({"text": "' OR 1=1 --"}, []),
        ({"text": "\x00"}, ["SPS3", "SPS1", "SPS2"]),
    ],
)
def test_the_worklist_is_narrowed_by(reports, entries, filters, found):
    assert ids(reports.worklist(**filters)) == found


def test_pages_are_bounded_whoever_asks(reports, entries, store):
    def more(uow):
        first = entries[0]
        for number in range(10, 10 + MAX_PAGE):
            entry = WorklistEntry(
                first.patient, first.order, first.procedure, a_step(first.procedure.id, number)
            )
            uow.steps.add(entry, elements=b"", now=NOW)

    store(more)
    assert len(reports.worklist(page=Page(limit=10**9))) == MOST_ROWS
    assert reports.worklist(page=Page(limit=-1, offset=-1)) == []


def test_orders_are_listed_newest_change_first(reports, entries, store):
    later = NOW + timedelta(minutes=1)
    store(lambda uow: uow.orders.save(entries[0].order, now=later))
    lines = reports.orders()
    assert ids(lines, "order_id") == [entries[n].order.id for n in (0, 2, 1)]
    first = lines[0]
    assert (first.accession_number, first.placer_order_number, first.patient_id) == ("A1", "P1", "PID1")
    assert (first.status, first.updated_at) == ("SCHEDULED", later)
    assert lines[2].procedure == "CT CHEST"
    assert lines[2].study_instance_uids == ("1.2.826.0.1.2",)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"incomplete": True}, [3]),
        ({"status": "completed"}, []),
        ({"text": "P2"}, [2]),
        ({"text": "F3"}, [3]),
        ({"text": "A1"}, [1]),
        ({"text": "eva"}, [2]),
    ],
)
def test_orders_are_narrowed_by(reports, entries, filters, found):
    lines = reports.orders(**filters)
    assert ids(lines, "order_id") == [entries[n - 1].order.id for n in found]
    if filters.get("incomplete"):
        assert lines[0].missing == ("Modality",)


def test_messages_are_listed_newest_first_and_read_raw(reports, store):
    problem = {"field": "PID-5", "problem": "missing"}

    def make(uow):
        parked = a_message(2, outcome=MessageOutcome.PARKED, problems=(problem,), sending_application="HIS")
        return [uow.messages.add(a_message(1)).id, uow.messages.add(parked).id]

    first, second = store(make)
    assert ids(reports.messages(), "message_id") == [second, first]
    (line,) = reports.messages(outcome="parked")
    assert (line.message_control_id, line.problems, line.acknowledgement_code) == ("M2", (problem,), "AA")
    assert ids(reports.messages(text="M1"), "message_id") == [first]
    assert ids(reports.messages(text="HIS"), "message_id") == [second]
    assert reports.message_raw(first) == (a_message().raw, a_message().answer)
    with pytest.raises(NotFound):
        reports.message_raw(99)


def test_studies_are_listed_with_their_worst_state(reports, entries, store):
    def make(uow):
        of_study = [
            an_instance(1, order=entries[0].order.id),
            an_instance(2, series_instance_uid="1.5"),
            an_instance(3, study_instance_uid="1.9", facts={"PatientName": ("X^Y",)}, accession_number=None),
        ]
        keys = uow.instances.add_many(of_study)
        uow.instances.decide(keys[0], InstanceState.UNROUTED, order=None)
        uow.instances.decide(keys[2], InstanceState.ROUTED, order=None)

    store(make)
    newest, first = reports.studies()
    assert (newest.study_instance_uid, newest.state, newest.patient_name) == ("1.9", "ROUTED", "X^Y")
    assert (first.study_instance_uid, first.state, first.patient_name) == (STUDY, "UNROUTED", "HAYDN1^JOSEPH")
    assert (first.series, first.instances, first.order_id) == (2, 2, entries[0].order.id)
    assert first.last_received_at == NOW
    for state, found in [("UNROUTED", [STUDY]), ("received", []), ("ROUTED", ["1.9"])]:
        assert ids(reports.studies(state=state), "study_instance_uid") == found
    for text, found in [("A1", [STUDY]), (STUDY, [STUDY]), ("PID1", ["1.9", STUDY]), ("PID", [])]:
        assert ids(reports.studies(text=text), "study_instance_uid") == found


@pytest.fixture
def deliveries(store):
    def make(uow):
        states = [
            DeliveryState.PENDING,
            DeliveryState.DEAD,
            DeliveryState.COLLECTING,
            DeliveryState.DELIVERED,
        ]
        keys = [
            uow.deliveries.add(
                a_delivery(n, state=state, created_at=NOW - timedelta(hours=n), reason="no answer"), now=NOW
            )
            for n, state in enumerate(states)
        ]
        keys.append(uow.deliveries.add(a_delivery(9, destination="cad", study_instance_uid="1.9"), now=NOW))
        uow.deliveries.add_items(keys[0], uow.instances.add_many([an_instance(1), an_instance(2)]))
        return keys

    return store(make)


def test_deliveries_are_listed_newest_first(reports, deliveries, store):
    def send_one(uow):
        uow.deliveries.claim(deliveries[0], worker="w", now=NOW, lease=timedelta(seconds=90))
        item = uow.deliveries.waiting_items(deliveries[0], after=0, limit=1)[0]
        uow.deliveries.settle_items(
            deliveries[0], 1, [ItemResult(item.id, ItemState.DELIVERED, "0000")], now=NOW
        )

    store(send_one)
    assert ids(reports.deliveries(), "id") == deliveries[::-1]
    assert ids(reports.deliveries(state="dead"), "id") == [deliveries[1]]
    assert ids(reports.deliveries(destination="cad"), "id") == [deliveries[4]]
    assert ids(reports.deliveries(study_instance_uid=STUDY), "id") == deliveries[3::-1]
    line = reports.delivery(deliveries[0])
    assert (line.state, line.attempt, line.items, line.delivered) == ("IN_PROGRESS", 1, 2, 1)
    with pytest.raises(NotFound):
        reports.delivery(99)


def test_each_destination_shows_its_queue(reports, deliveries, store):
    store(
        lambda uow: uow.destinations.save(DestinationState("film", DestinationHealth.PAUSED, NOW, "no film"))
    )
    archive, cad, film = reports.destinations(now=NOW)
    assert (archive.destination, archive.state) == ("archive", "up")
    assert (archive.waiting, archive.dead, archive.delivered_last_hour) == (2, 1, 1)
    assert archive.oldest == NOW
    assert (cad.destination, cad.waiting, cad.dead) == ("cad", 1, 0)
    assert (film.destination, film.state, film.reason, film.waiting) == ("film", "paused", "no film", 0)
    (archive, *_) = reports.destinations(now=NOW + timedelta(hours=2))
    assert archive.delivered_last_hour == 0


def test_the_urgent_among_the_dead_are_counted(reports, store):
    def die(uow):
        for number, priority in enumerate((1, 1, 4), 1):
            dead = a_delivery(number, state=DeliveryState.DEAD, priority=priority)
            uow.deliveries.add(dead, now=NOW)
        uow.deliveries.add(a_delivery(9, state=DeliveryState.PENDING, priority=1), now=NOW)

    store(die)
    (archive,) = reports.destinations(now=NOW)
    assert (archive.dead, archive.stat_dead) == (3, 2)


def test_the_day_counts_from_the_sites_midnight(reports, entries, deliveries, store):
    midnight = NOW.astimezone(ZoneInfo("Europe/Berlin")).replace(hour=0)

    def make(uow):
        started = replace(entries[1].step, status=StepStatus.STARTED)
        uow.steps.save(replace(entries[1], step=started), elements=b"", now=NOW)
        yesterday = midnight - timedelta(seconds=1)
        for outcome in (MessageOutcome.ACCEPTED, MessageOutcome.PARKED, MessageOutcome.REFUSED):
            for received_at in (NOW, yesterday):
                uow.messages.add(a_message(outcome=outcome, received_at=received_at))
        uow.instances.add_many([an_instance(7, received_at=yesterday)])
        uow.instances.decide(uow.instances.add_many([an_instance(8)])[0], InstanceState.UNROUTED, order=None)

    store(make)
    day = reports.day(since=midnight)
    assert (day.messages, day.refused_messages, day.parked_messages) == (3, 1, 2)
    assert (day.orders, day.incomplete_orders) == (3, 1)
    assert (day.scheduled, day.in_progress, day.completed) == (1, 1, 0)
    assert (day.instances, day.unrouted_studies) == (3, 1)
    assert (day.deliveries, day.delivered, day.dead_deliveries) == (5, 1, 1)


def test_a_study_tells_its_story_in_order(reports, entries, store, clock):
    order = entries[0].order.id

    def make(uow):
        message = uow.messages.add(a_message(order=order, received_at=NOW - timedelta(minutes=5)))
        uow.messages.add(a_message(2))
        uow.performed.add(a_performed_step(), now=NOW + timedelta(minutes=1))
        version = uow.decisions.record_configuration("00", "", by="x", now=NOW)
        keys = uow.instances.add_many(
            [an_instance(n, received_at=NOW + timedelta(minutes=2), order=order) for n in range(3)]
        )
        for key in keys:
            clock.instant = NOW + timedelta(minutes=2)
            uow.record(Event(EventName.INSTANCE_RECEIVED, Subject.INSTANCE, key, STUDY))
            at = NOW + timedelta(minutes=3)
            uow.decisions.add(StoredDecision(0, key, STUDY, version, at, {}, ("all",)))
        clock.instant = NOW + timedelta(minutes=4)
        created = NOW + timedelta(minutes=4)
        silent = uow.deliveries.add(a_delivery(1, created_at=created), now=created)
        told = uow.deliveries.add(a_delivery(2, created_at=created), now=created)
        uow.record(Event(EventName.DELIVERY_CREATED, Subject.DELIVERY, told, STUDY))
        clock.instant = NOW + timedelta(minutes=5)
        uow.record(Event(EventName.DELIVERY_DELIVERED, Subject.DELIVERY, told, actor="worker"))
        return message.id, silent, told

    message, silent, told = store(make)
    timeline = reports.study_timeline(STUDY)
    assert [(entry.what, entry.subject_id) for entry in timeline if entry.subject != "order"] == [
        ("message received", message),
        ("step scheduled", entries[0].step.id),
        ("performed step created", timeline[3].subject_id),
        ("instance received", None),
        ("routed", None),
        ("delivery created", told),
        ("delivery created", silent),
        ("delivery delivered", told),
    ]
    assert timeline[4].details["instances"] == timeline[5].details["instances"] == 3
    assert reports.order_timeline(order) == timeline
    assert [entry.what for entry in reports.delivery_events(told)] == [
        "delivery created",
        "delivery delivered",
    ]
    assert reports.study_timeline("1.99") == []


def test_heartbeats_are_listed_and_the_silent_replaced(reports, engine):
    def say(pid, now, **details):
        beat(engine, role="hl7", host="h", pid=pid, started_at=NOW, now=now, details=details)

    say(1, NOW, ok=True)
    say(2, NOW)
    say(1, NOW + timedelta(seconds=5), ok=False)
    first, _second = reports.roles()
    assert (first.pid, first.beat_at, first.details) == (1, NOW + timedelta(seconds=5), {"ok": False})
    say(3, NOW + timedelta(seconds=33))
    assert ids(reports.roles(), "pid") == [1, 3]
    retire(engine, role="hl7", host="h", pid=1)
    assert ids(reports.roles(), "pid") == [3]


def test_destinations_tell_how_they_fare_by_the_hour(engine, uow_factory):
    with uow_factory() as uow:
        for number, (minutes, state) in enumerate(
            [
                (5, DeliveryState.DELIVERED),
                (50, DeliveryState.DELIVERED),
                (130, DeliveryState.DELIVERED),
                (800, DeliveryState.DELIVERED),
                (5, DeliveryState.PENDING),
            ]
        ):
            done = NOW - timedelta(minutes=minutes)
            uow.deliveries.add(a_delivery(number, state=state, priority=1), now=done)
        for name in (EventName.DELIVERY_RETRY, EventName.DELIVERY_DIED, EventName.DELIVERY_CLAIMED):
            uow.record(Event(name, Subject.DELIVERY, details={"destination": "archive"}))
        uow.commit()
    archive, film = SqlReports(engine, destinations=["film"]).trends(now=NOW)
    assert (archive.destination, film.destination) == ("archive", "film")
    assert archive.delivered == (0,) * 9 + (1, 0, 2)
    assert archive.delivered_lately == 1
    assert archive.failed_last_hour == 2
    assert archive.stat_waiting == 1
    assert film.delivered == (0,) * 12


@pytest.mark.parametrize(
    ("step", "overdue_arrived", "overdue_stat", "incomplete_stat"),
    [
        ({"start_time": "072000", "status": StepStatus.ARRIVED}, 1, 0, 0),
        ({"start_time": "073500", "status": StepStatus.ARRIVED}, 0, 0, 0),
        ({"start_time": "072000"}, 0, 0, 0),
        ({"start_time": "072000", "start_date": "20261119", "status": StepStatus.ARRIVED}, 0, 0, 0),
        ({"start_time": "072000", "status": StepStatus.STARTED}, 0, 0, 0),
    ],
)
@pytest.mark.parametrize("priority", ["ROUTINE", "STAT"])
def test_who_waits_too_long_is_counted(
    reports, uow_factory, step, overdue_arrived, overdue_stat, incomplete_stat, priority
):
    with uow_factory() as uow:
        a_stored_entry(uow, 1, procedure={"attributes": {"RequestedProcedurePriority": priority}}, step=step)
        uow.commit()
    is_stat, is_late = priority == "STAT", step == {"start_time": "072000"} or overdue_arrived
    found = reports.urgent(now_local=NOW, late=timedelta(minutes=30))
    assert found.overdue_arrived == overdue_arrived
    assert found.overdue_stat == (1 if is_stat and is_late else overdue_stat)
    assert found.incomplete_stat == incomplete_stat


def test_a_stat_step_no_scanner_sees_is_counted(reports, uow_factory):
    with uow_factory() as uow:
        stat = {"attributes": {"RequestedProcedurePriority": "STAT"}}
        a_stored_entry(uow, 1, procedure=stat, step={"missing": ("Modality",)})
        a_stored_entry(uow, 2, step={"missing": ("Modality",)})
        uow.commit()
    assert reports.urgent(now_local=NOW, late=timedelta(minutes=30)).incomplete_stat == 1


@pytest.mark.parametrize(
    ("date", "time", "hour", "minute", "waits"),
    [
        ("20261121", "000000", 0, 20, 0),
        ("20261121", "000000", 0, 31, 1),
        ("20261120", "234900", 0, 20, 1),
        ("20261120", "235100", 0, 20, 0),
        ("20261120", "235959", 3, 0, 1),
        ("20261120", "025959", 3, 0, 0),
        ("20261120", "030000", 3, 0, 1),
        ("20261121", "024000", 3, 0, 0),
        ("20261122", "000000", 3, 0, 0),
    ],
)
def test_who_waits_is_not_forgotten_at_midnight(reports, uow_factory, date, time, hour, minute, waits):
    with uow_factory() as uow:
        step = {"start_date": date, "start_time": time, "status": StepStatus.ARRIVED}
        a_stored_entry(uow, 1, procedure={"attributes": {"RequestedProcedurePriority": "STAT"}}, step=step)
        uow.commit()
    found = reports.urgent(now_local=NOW.replace(hour=hour, minute=minute), late=timedelta(minutes=30))
    assert (found.overdue_arrived, found.overdue_stat) == (waits, waits)


def test_a_shift_is_counted_from_its_beginning(engine, uow_factory):
    """The clock of the test stands at NOW: so do its events."""
    with uow_factory() as uow:
        a_stored_entry(uow, 1)
        a_stored_entry(uow, 2, now=NOW - timedelta(hours=13))
        for number, outcome in enumerate(
            [MessageOutcome.ACCEPTED, MessageOutcome.ACCEPTED, MessageOutcome.REFUSED]
        ):
            uow.messages.add(a_message(number, outcome=outcome, received_at=NOW - timedelta(hours=number)))
        uow.messages.add(a_message(9, received_at=NOW - timedelta(hours=13)))
        uow.instances.add_many([an_instance(1)])
        uow.deliveries.add(a_delivery(1, state=DeliveryState.DELIVERED), now=NOW)
        uow.destinations.save(DestinationState("film", DestinationHealth.PAUSED, since=NOW, reason="tray"))
        uow.destinations.save(DestinationState("archive", DestinationHealth.UP, since=NOW))
        for actor in ("ruiz", "ruiz", "ito", "broker"):
            uow.record(Event(EventName.DELIVERY_RETRIED, Subject.DELIVERY, actor=actor))
        details = {"destination": "film"}
        uow.record(Event(EventName.DESTINATION_PAUSED, Subject.DESTINATION, actor="ito", details=details))
        uow.record(Event(EventName.DEVICE_REFUSED, Subject.DEVICE, actor="LOANER"))
        uow.record(Event(EventName.DELIVERY_DIED, Subject.DELIVERY))
        uow.commit()
    reports = SqlReports(engine)
    counts = reports.shift(since=NOW - timedelta(hours=12), until=NOW)
    assert {name: number for name, number in counts.messages.items() if number} == {
        "accepted": 2,
        "refused": 1,
    }
    assert (counts.orders, counts.completed, counts.instances, counts.studies) == (1, 0, 1, 1)
    assert (counts.deliveries, counts.delivered, counts.died) == (1, 1, 1)
    assert list(counts.destination_events) == [(NOW, "destination paused", "film")]
    assert counts.refused_devices == {"LOANER": 1}
    assert list(counts.deeds) == [
        ("ito", "delivery retried by a person", 1),
        ("ito", "destination paused", 1),
        ("ruiz", "delivery retried by a person", 2),
    ]
    (held,) = reports.held_destinations()
    assert (held.destination, held.state, held.reason) == ("film", "paused", "tray")
    later = reports.shift(since=NOW + timedelta(hours=1), until=NOW + timedelta(hours=2))
    assert (later.orders, later.died, list(later.deeds)) == (0, 0, [])
