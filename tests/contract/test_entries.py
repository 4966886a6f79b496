"""One order as scanners see it, on both databases: values with sources, who was shown it, who would be, and why not."""

from datetime import timedelta

import pytest

from broker.db.worklist_query import SqlWorklistReader
from broker.domain.devices import DeviceProfile
from broker.domain.events import Event, EventName, Subject
from broker.errors import NotFound
from broker.workflow.entries import Asked, asked_like, query_of, sights, values_of
from broker.workflow.worklist import Worklist
from tests.builders import NOW, a_stored_entry, an_instance
from tests.query_plans import plans_of

CT1 = DeviceProfile(ae_title="CT1", modalities=("CT",))


def query(actor, *steps, at=NOW, keys=("ScheduledStationAETitle",)):
    details = {"asked_at": at.isoformat(), "answers": len(steps), "keys": list(keys), "status": "0000"}
    return Event(
        EventName.WORKLIST_QUERIED,
        Subject.DEVICE,
        actor=actor,
        details={**details, "steps": [str(step) for step in steps], "duration_ms": 0.5},
    )


def judged(engine, reports, clock, order, device=CT1, asked=None):
    worklist = Worklist(SqlWorklistReader(engine), clock)
    wanted = query_of(asked or Asked(), device, now=clock.local_now())
    return sights(reports.order_entries(order), wanted, device, worklist)


def today(clock):
    return clock.local_now().strftime("%Y%m%d")


def test_each_value_is_told_once_with_the_place_it_came_from(reports, store):
    entry = store(
        lambda uow: a_stored_entry(
            uow, 1, order={"sources": {"AccessionNumber": "OBR-18"}}, step={"sources": {"Modality": "OBR-24"}}
        )
    )
    values = {
        value.keyword: value for value in values_of([e for e, _ in reports.order_entries(entry.order.id)])
    }
    assert (values["AccessionNumber"].value, values["AccessionNumber"].source) == ("A1", "OBR-18")
    assert (values["Modality"].level, values["Modality"].source) == ("step SPS1", "OBR-24")
    assert values["PatientID"].source == ""


def test_a_device_that_asks_for_its_own_work_of_today_is_shown_it(engine, reports, store, clock):
    entry = store(lambda uow: a_stored_entry(uow, 1, step={"start_date": today(clock)}))
    (sight,) = judged(engine, reports, clock, entry.order.id)
    assert sight.seen
    assert all(clause.holds for clause in sight.clauses)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"station_ae_titles": ("CT2",)}, "ScheduledStationAETitle is CT2, asked for CT1"),
        ({"modality": "MR"}, "Modality is MR, asked for CT"),
        ({"start_date": "19991231"}, "ScheduledProcedureStepStartDate is 19991231"),
        ({"missing": ("Modality",)}, "the order lacks Modality"),
    ],
)
def test_what_keeps_an_order_from_a_device_is_said(engine, reports, store, clock, step, said):
    entry = store(lambda uow: a_stored_entry(uow, 1, step={"start_date": today(clock), **step}))
    (sight,) = judged(engine, reports, clock, entry.order.id)
    assert not sight.seen
    assert next(clause.text for clause in sight.clauses if not clause.holds).startswith(said)


def test_what_a_device_does_not_ask_for_keeps_nothing_from_it(engine, reports, store, clock):
    entry = store(lambda uow: a_stored_entry(uow, 1, step={"start_date": "19991231", "modality": "MR"}))
    asked = Asked(own_station=True, own_modality=False, today=False)
    (sight,) = judged(engine, reports, clock, entry.order.id, asked=asked)
    assert sight.seen


def test_a_device_is_taken_to_ask_as_it_last_did(reports, store):
    assert reports.last_query("CT1") is None
    assert asked_like(None) == Asked()
    store(lambda uow: uow.record(query("CT1", keys=("Modality",))))
    store(lambda uow: uow.record(query("MR1")))
    last = reports.last_query("CT1")
    assert (last.keys, last.answers) == (("Modality",), 0)
    assert asked_like(last) == Asked(own_station=False, own_modality=True, today=False)


def test_the_timeline_tells_who_was_shown_the_order_first_and_last(reports, store):
    entry = store(lambda uow: a_stored_entry(uow, 1))
    key = entry.step.id

    def ask(uow):
        for minute in (1, 5, 9):
            uow.record(query("CT1", key, key + 1000, at=NOW + timedelta(minutes=minute)))
        uow.record(query("CT2", key + 1000, int(f"1{key}")))

    store(ask)
    told = [e for e in reports.order_timeline(entry.order.id) if e.what == EventName.WORKLIST_QUERIED.value]
    assert [(e.actor, e.at, e.details.get("times")) for e in told] == [
        ("CT1", NOW + timedelta(minutes=1), None),
        ("CT1", NOW + timedelta(minutes=9), 2),
    ]


@pytest.mark.parametrize(("images", "shown"), [(1, 1), (2, 2), (3, 3), (4, 4), (9, 4)])
def test_a_series_is_shown_by_a_few_of_its_images(reports, store, images, shown):
    keys = store(lambda uow: uow.instances.add_many([an_instance(number) for number in range(1, images + 1)]))
    (series,) = [e for e in reports.study_timeline("1.2.826.0.1.1") if "previews" in e.details]
    assert len(set(series.details["previews"])) == shown
    assert series.details["previews"][0] == keys[0]
    assert series.details["previews"][-1] == keys[-1]
    assert reports.instance(keys[0]).study_instance_uid == "1.2.826.0.1.1"
    with pytest.raises(NotFound):
        reports.instance(10**9)


def test_a_timeline_walks_through_no_table(engine, reports, store):
    entry = store(lambda uow: a_stored_entry(uow, 1))
    store(lambda uow: uow.record(query("CT1", entry.step.id)))
    plans = plans_of(engine, lambda: (reports.order_timeline(entry.order.id), reports.last_query("CT1")))
    assert plans
    assert not [p for p in plans if "Seq Scan" in p], plans
    assert not [p for p in plans if p.split()[:2] == ["SCAN", "event"] and "ix_event_name_at" not in p], plans
