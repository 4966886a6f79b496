"""Synthetic exams on both databases: who sees them, where their images go, and what is left when they are over."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from broker.db.reports import SqlReports
from broker.db.schema import DELIVERY, INSTANCE, METADATA, ORDER, PATIENT, STEP
from broker.db.worklist_query import SqlWorklistReader
from broker.domain.delivery import DeliveryState
from broker.domain.devices import DEFAULT_DEVICE, DeviceProfile
from broker.domain.matching import WorklistQuery
from broker.domain.steps import StepStatus
from broker.workflow.images_port import InstanceState
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.probe_port import PROBE, Hop, ProbeRun
from broker.workflow.routing import Purpose, RoutedDestination, RoutingPolicy, route
from broker.workflow.selection import Selection
from broker.workflow.worklist import Worklist
from tests.builders import NOW, a_delivery, a_message, a_stored_entry, an_instance
from tests.some_routes import ROUTES

STUDY = "2.25.777"
RUN = ProbeRun(0, STUDY, "PROBE1", "tester", NOW)
CT = DeviceProfile(ae_title="CT1", modalities=("CT", "MR", "OT"))


@pytest.fixture
def world(store):
    """A synthetic exam and a patient's order, both on the worklist; answers the exam's run and both entries."""

    def make(uow):
        run = replace(RUN, id=uow.probes.add(RUN))
        ours = a_stored_entry(uow, 1, procedure={"study_instance_uid": STUDY})
        theirs = a_stored_entry(uow, 2)
        return run, ours, theirs

    return store(make)


def steps_seen(engine, clock, device, query=None):
    worklist = Worklist(SqlWorklistReader(engine), clock)
    return [answer.step for answer in worklist.find(query or WorklistQuery((), None, ()), device)]


def test_no_device_is_shown_a_synthetic_exam_and_the_probe_nothing_else(engine, clock, world):
    _, ours, theirs = world
    for device in (DEFAULT_DEVICE, CT):
        assert steps_seen(engine, clock, device) == [theirs.step.id]
        everything = WorklistQuery((), frozenset(StepStatus), ())
        assert steps_seen(engine, clock, device, everything) == [theirs.step.id]
    assert steps_seen(engine, clock, DeviceProfile(ae_title=PROBE)) == [ours.step.id]


def routed(engine, store, *, probe, number=1, study=STUDY):
    def decide(uow):
        configuration = uow.decisions.record_configuration("1" * 64, "routes: []", by="x", now=NOW)
        (key,) = uow.instances.add_many(
            [an_instance(number, study_instance_uid=study, facts={"Modality": ("CT",)})]
        )
        everywhere = {
            name: RoutedDestination(name, "dicom", Purpose.STORAGE) for name in ("ai", "archive", "stub")
        }
        policy = RoutingPolicy(ROUTES, configuration, everywhere, probe=everywhere["stub"] if probe else None)
        route(uow, [key], policy, now=NOW)

    store(decide)
    with engine.connect() as connection:
        found = select(DELIVERY.c.destination).where(DELIVERY.c.study_instance_uid == study)
        return set(connection.execute(found).scalars())


@pytest.mark.parametrize(("probe", "destinations"), [(True, {"stub"}), (False, set())])
def test_no_rule_is_asked_about_its_image_which_goes_to_the_stub_alone(
    engine, store, world, probe, destinations
):
    assert routed(engine, store, probe=probe) == destinations
    assert routed(engine, store, probe=probe, number=2, study="1.2.3") == {"ai", "archive"}


def test_its_image_is_kept_from_the_archives_also_after_its_rows_are_gone(engine, store, world):
    run, _, _ = world
    store(lambda uow: uow.probes.clear(run))
    assert routed(engine, store, probe=True) == {"stub"}


def test_clearing_removes_what_is_its_own_and_nothing_else(engine, store, world):
    run, ours, theirs = world
    run = replace(run, patient_id=ours.patient.patient_id)
    routed(engine, store, probe=True)
    routed(engine, store, probe=True, number=2, study=theirs.procedure.study_instance_uid)
    before = counts(engine)
    assert len(store(lambda uow: uow.probes.clear(run))) == 1
    with engine.connect() as connection:
        assert list(connection.execute(select(STEP.c.id)).scalars()) == [theirs.step.id]
        assert list(connection.execute(select(INSTANCE.c.study_instance_uid)).scalars()) == [
            theirs.procedure.study_instance_uid
        ]
        assert set(connection.execute(select(DELIVERY.c.destination)).scalars()) == {"ai", "archive"}
    after = counts(engine)
    assert after["event"] == before["event"]
    assert after["patient"] == after["imaging_order"] == after["scheduled_procedure_step"] == 1
    assert store(lambda uow: uow.probes.open(started_before=NOW + timedelta(days=1))) == []


def counts(engine):
    with engine.connect() as connection:
        return {table.name: len(connection.execute(select(table)).all()) for table in METADATA.sorted_tables}


def test_an_exam_that_is_the_newest_stays_where_its_ids_would_be_given_again(engine, store):
    """What remembers ids, answers and events, must never take a patient's row for a synthetic one."""

    def make(uow):
        run = replace(RUN, id=uow.probes.add(RUN))
        entry = a_stored_entry(uow, 1, procedure={"study_instance_uid": STUDY})
        return replace(run, patient_id=entry.patient.patient_id), entry

    run, entry = store(make)
    removed = store(lambda uow: uow.probes.clear(run))
    assert removed == (None if engine.dialect.name == "sqlite" else [])
    theirs = store(lambda uow: a_stored_entry(uow, 2))
    assert theirs.step.id > entry.step.id
    if removed is None:
        assert store(lambda uow: uow.probes.clear(run)) == []


def test_the_counts_of_the_day_know_nothing_of_it(engine, store, world):
    reports = SqlReports(engine)
    routed(engine, store, probe=True)
    routed(engine, store, probe=True, number=2, study="1.2.3")
    day = reports.day(since=NOW - timedelta(hours=1))
    assert (day.studies, day.instances, day.deliveries) == (1, 1, 2)
    assert [line.study_instance_uid for line in reports.studies()] == ["1.2.3"]
    assert {line.destination for line in reports.deliveries()} == {"ai", "archive"}
    assert len(reports.worklist()) == 1


def test_nothing_is_removed_while_a_delivery_of_it_is_under_way(engine, store, world):
    run, _, _ = world
    routed(engine, store, probe=True)
    before = counts(engine)
    with engine.begin() as connection:
        connection.execute(DELIVERY.update().values(state=DeliveryState.IN_PROGRESS.value))
    assert store(lambda uow: uow.probes.clear(run)) is None
    assert counts(engine) == before


def test_results_are_kept_and_told_newest_first(engine, store, world):
    run, _, _ = world
    hops = (
        Hop("order", ok=True, seconds=0.1, detail="AA"),
        Hop("worklist", ok=False, seconds=1, detail="no"),
    )
    ended = replace(run, ended_at=NOW + timedelta(seconds=2), failed_hop="worklist", hops=hops)
    store(lambda uow: uow.probes.keep(ended))
    (told,) = SqlReports(engine).probe_runs()
    assert told == ended
    assert not told.ok
    assert store(lambda uow: uow.probes.last_started()) == NOW
    assert store(lambda uow: uow.probes.among([STUDY, "1.2"])) == {STUDY}
    assert store(lambda uow: uow.probes.forget(ended_before=NOW + timedelta(days=1))) == 0  # still open
    store(lambda uow: uow.probes.clear(run))
    assert store(lambda uow: uow.probes.forget(ended_before=NOW + timedelta(days=1))) == 1


def test_find_badges_and_bulk_operations_know_patients_only(engine, store, world):
    run, ours, theirs = world

    def more(uow):
        told = {"study_instance_uid": STUDY, "patient_id": run.patient_id, "sop_instance_uid": "2.25.7"}
        (instance,) = uow.instances.add_many([an_instance(7, **told)])
        uow.instances.decide(instance, InstanceState.UNROUTED, order=None)
        uow.messages.add(a_message(7, sending_application=PROBE, outcome=MessageOutcome.PARKED))
        dead = {"state": DeliveryState.DEAD, "cause": "unknown"}
        uow.deliveries.add(a_delivery(1, study_instance_uid=STUDY, **dead), now=NOW)
        return uow.deliveries.add(a_delivery(2, study_instance_uid="1.2.826.0.1.2", **dead), now=NOW)

    patient_of(engine, ours.order.id, run.patient_id)
    of_a_patient = store(more)
    reports = SqlReports(engine)
    for text in (run.patient_id, "A1", "P1", "SPS1", STUDY, "HAYDN1", "2.25.7", "M7", PROBE):
        assert reports.find(text).groups == [], text
    assert [order.order_id for order in reports.find("HAYDN").groups[0].orders] == [theirs.order.id]
    needs = reports.needs_person(refused_since=NOW - timedelta(days=1))
    assert (needs.dead_deliveries, needs.parked_messages, needs.unrouted_studies) == (1, 0, 0)
    day = reports.day(since=NOW - timedelta(days=1))
    assert (day.dead_deliveries, day.parked_messages, day.unrouted_studies) == (1, 0, 0)
    everything = Selection(state=DeliveryState.DEAD)
    assert [line.id for line in reports.select_deliveries(everything)] == [of_a_patient]
    assert [cause.deliveries for cause in reports.causes(everything)] == [1]
    assert [count.deliveries for count in reports.counts(Selection())] == [1]
    chosen = store(
        lambda uow: uow.deliveries.select(Selection(), states=[DeliveryState.DEAD], after=0, limit=10)
    )
    assert [delivery.id for delivery in chosen] == [of_a_patient], "nobody retries an exam of nobody"


def test_of_what_is_delivered_synthetic_exams_are_not_counted(engine, store, world):
    def deliver(uow):
        for number, study in enumerate((STUDY, "1.2.826.0.1.2", "1.2.826.0.1.2"), 1):
            delivered = a_delivery(number, study_instance_uid=study, state=DeliveryState.DELIVERED)
            uow.deliveries.add(delivered, now=NOW)

    store(deliver)
    counted = SqlReports(engine).counts(Selection(state=DeliveryState.DELIVERED))
    assert [count.deliveries for count in counted] == [2]


def patient_of(engine, order, patient_id):
    with engine.begin() as connection:
        patient = select(ORDER.c.patient).where(ORDER.c.id == order).scalar_subquery()
        connection.execute(update(PATIENT).where(PATIENT.c.id == patient).values(patient_id=patient_id))
        connection.execute(update(STEP).where(STEP.c.order == order).values(patient_id=patient_id))
