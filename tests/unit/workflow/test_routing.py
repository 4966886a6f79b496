"""Routing: from received rows to deliveries, once, with reasons that can be told afterwards."""

from __future__ import annotations

import ast
import threading
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.dicom.objects.answers import WorklistEncoder
from broker.dicom.objects.header import known_keyword
from broker.domain.delivery import DeliveryState as S
from broker.domain.orders import PatientIdentifier
from broker.domain.rules import compile_routes
from broker.domain.steps import PerformedStatus
from broker.workflow.completion import CompletionPolicy, release_complete_series
from broker.workflow.explain import explain_facts, explain_study
from broker.workflow.images_port import Instance, InstanceState
from broker.workflow.procedure_steps import (
    PerformedItem,
    PerformedState,
    PerformedWork,
    update_performed_step,
)
from broker.workflow.reconciliation import Agreement, agreement_of, join_late
from broker.workflow.routing import (
    HELD_FOR_IDENTITY,
    Purpose,
    RoutedDestination,
    RoutingPolicy,
    purpose_of,
    reroute,
    route,
    route_received,
)
from broker.workflow.unit_of_work import UnitsOfWork
from broker.workflow.wake_ups import Task
from tests.builders import NOW, a_patient, a_performed_step, a_stored_entry, an_instance
from tests.fakes.clock import FakeClock

STUDY = "1.2.826.0.1.1"
SERIES = "1.2.826.0.1.1.1"
MATCHING_FACTS = {"Modality": ("CT",), "PatientID": ("PID1",), "PatientName": ("HAYDN1^JOSEPH",)}
DESTINATIONS = {
    name: RoutedDestination(name, kind, purpose_of(kind, safekeeping=name == "archive"), title)
    for name, kind, title in (
        ("archive", "dicom", "PACS"),
        ("cad", "dicom", "CADX"),
        ("film", "print", "FILM"),
        ("copies", "folder", None),
    )
}
ROUTES = [
    {"name": "ct-to-cad", "when": {"Modality": "CT"}, "send": ["cad"]},
    {"name": "all-to-archive", "when": {"Modality": {"not": "XX"}}, "send": ["archive"]},
]


@pytest.fixture
def policy_of(uow_factory: UnitsOfWork):
    def make(*routes: dict, **changes) -> RoutingPolicy:
        compiled = compile_routes(list(routes or ROUTES), known_keyword=known_keyword)
        with uow_factory() as uow:
            configuration = uow.decisions.record_configuration(
                str(len(routes)), repr(list(routes or ROUTES)), by="test", now=NOW
            )
            uow.commit()
        return RoutingPolicy(compiled, configuration, DESTINATIONS, **changes)

    return make


def store(uows: UnitsOfWork, *instances: Instance) -> list[int]:
    with uows() as uow:
        ids = uow.instances.add_many(instances)
        uow.commit()
    return ids


def an_image(number: int = 1, **changes) -> Instance:
    return an_instance(number, **{"facts": MATCHING_FACTS, **changes})


def deliveries(uows: UnitsOfWork, *instances: int):
    with uows() as uow:
        found = {d.id: d for key in instances for d in uow.deliveries.of_instance(key)}
    return [found[key] for key in sorted(found)]


def state_of(uows: UnitsOfWork, instance: int) -> InstanceState:
    with uows() as uow:
        return uow.instances.get(instance).state


def event_names(uow_factory, engine) -> Counter[str]:
    with engine.connect() as connection:
        return Counter(connection.exec_driver_sql("SELECT name FROM event").scalars())


def test_every_matching_route_makes_a_delivery(uow_factory, clock, queue, policy_of, engine) -> None:
    (key,) = store(uow_factory, an_image())
    result = route_received(uow_factory, clock, policy_of())
    assert (result.routed, result.unrouted, result.more) == (1, 0, False)
    cad, archive = deliveries(uow_factory, key)
    assert (cad.destination, cad.route, cad.unit, cad.unit_uid, cad.state) == (
        "cad",
        "ct-to-cad",
        "series",
        SERIES,
        S.COLLECTING,
    )
    assert (archive.destination, archive.unit, archive.unit_uid, archive.state, archive.due_at) == (
        "archive",
        "instance",
        SERIES,
        S.PENDING,
        clock.now(),
    )
    assert (cad.due_at, cad.collect_until) == (
        clock.now() + timedelta(seconds=30),
        clock.now() + timedelta(hours=4),
    )
    assert state_of(uow_factory, key) is InstanceState.ROUTED
    assert [(w.id, w.destination) for w in queue.wake_ups if w.task is Task.DELIVER] == [
        (archive.id, "archive")
    ]
    assert event_names(uow_factory, engine) == {
        "delivery created": 2,
        "instance received": 1,
        "routed": 1,
    }


def test_what_no_route_takes_is_kept_and_told(uow_factory, clock, policy_of, engine) -> None:
    (key,) = store(uow_factory, an_image(facts={"Modality": ("XX",)}))
    result = route_received(uow_factory, clock, policy_of())
    assert (result.routed, result.unrouted) == (0, 1)
    assert state_of(uow_factory, key) is InstanceState.UNROUTED
    assert deliveries(uow_factory, key) == []
    assert event_names(uow_factory, engine)["unrouted"] == 1


def test_routing_twice_does_nothing_the_second_time(uow_factory, clock, policy_of) -> None:
    ids = store(uow_factory, an_image(1), an_image(2))
    route_received(uow_factory, clock, policy_of())
    with uow_factory() as uow:
        again = route(uow, ids, policy_of(), now=clock.now())
        uow.commit()
    assert (again.routed, again.unrouted) == (0, 0)
    cad, archive = deliveries(uow_factory, *ids)
    assert (cad.items, archive.items) == (2, 2)
    with uow_factory() as uow:
        assert len(uow.decisions.of_study(STUDY)) == 2


def test_later_instances_join_the_open_delivery_of_their_series_even_while_it_is_sent(
    uow_factory, clock, policy_of
) -> None:
    policy = policy_of(ROUTES[1])
    (first,) = store(uow_factory, an_image(1))
    route_received(uow_factory, clock, policy)
    (archive,) = deliveries(uow_factory, first)
    with uow_factory() as uow:
        assert uow.deliveries.claim(archive.id, worker="w", now=clock.now(), lease=timedelta(seconds=90))
        uow.commit()
    (second, other) = store(uow_factory, an_image(2), an_image(3, series_instance_uid=SERIES + ".9"))
    route_received(uow_factory, clock, policy)
    joined, separate = deliveries(uow_factory, second, other)
    assert (joined.id, joined.state, joined.items) == (archive.id, S.IN_PROGRESS, 2)
    assert separate.unit_uid == SERIES + ".9"


def test_a_late_image_opens_a_new_delivery(uow_factory, clock, policy_of) -> None:
    policy = policy_of(ROUTES[1])
    (first,) = store(uow_factory, an_image(1))
    route_received(uow_factory, clock, policy)
    (done,) = deliveries(uow_factory, first)
    with uow_factory() as uow:
        uow.deliveries.move(
            done.id, source=S.PENDING, to=S.DEAD, due_at=clock.now(), reason="x", now=clock.now()
        )
        uow.commit()
    (late,) = store(uow_factory, an_image(2))
    route_received(uow_factory, clock, policy)
    (fresh,) = deliveries(uow_factory, late)
    assert fresh.id != done.id
    assert (fresh.state, fresh.items) == (S.PENDING, 1)


def test_each_image_moves_the_quiet_period_up_to_its_cap(uow_factory, clock, policy_of) -> None:
    completion = CompletionPolicy(series_quiet=timedelta(seconds=30), cap=timedelta(seconds=50))
    policy = policy_of(ROUTES[0], completion=completion)
    start = clock.now()
    for number, expected_s in ((1, 30), (2, 45), (3, 50)):
        (key,) = store(uow_factory, an_image(number))
        route_received(uow_factory, clock, policy)
        (delivery,) = deliveries(uow_factory, key)
        assert delivery.due_at == start + timedelta(seconds=expected_s)
        clock.advance(15)
    assert delivery.items == 3


@pytest.mark.parametrize(
    ("unit", "unit_uid", "state", "wait_s"),
    [
        ("instance", SERIES, S.PENDING, 0),
        ("series", SERIES, S.COLLECTING, 30),
        ("study", STUDY, S.COLLECTING, 300),
    ],
)
def test_a_route_may_choose_its_unit(uow_factory, clock, policy_of, unit, unit_uid, state, wait_s) -> None:
    (key,) = store(uow_factory, an_image())
    route_received(uow_factory, clock, policy_of({"name": "r", "send": ["archive"], "unit": unit}))
    (delivery,) = deliveries(uow_factory, key)
    assert (delivery.unit, delivery.unit_uid, delivery.state) == (unit, unit_uid, state)
    assert delivery.due_at == clock.now() + timedelta(seconds=wait_s)


@pytest.mark.parametrize(
    ("kind", "safekeeping", "purpose"),
    [
        ("dicom", True, Purpose.STORAGE),
        ("folder", False, Purpose.STORAGE),
        ("dicom", False, Purpose.ALGORITHM),
        ("print", False, Purpose.PRINT),
        ("print", True, Purpose.PRINT),
    ],
)
def test_a_destination_says_what_it_is_for(kind: str, safekeeping: bool, purpose: Purpose) -> None:
    assert purpose_of(kind, safekeeping=safekeeping) is purpose


def test_an_object_does_not_go_back_to_where_it_came_from(uow_factory, clock, policy_of) -> None:
    (key,) = store(uow_factory, an_image(calling_ae_title="cadx "))
    route_received(uow_factory, clock, policy_of())
    assert [d.destination for d in deliveries(uow_factory, key)] == ["archive"]


def test_two_routes_to_one_destination_send_one_copy(uow_factory, clock, policy_of) -> None:
    (key,) = store(uow_factory, an_image())
    first = {"name": "one", "send": ["archive"]}
    route_received(uow_factory, clock, policy_of(first, {"name": "two", "send": ["archive", "copies"]}))
    assert [(d.destination, d.route) for d in deliveries(uow_factory, key)] == [
        ("archive", "one"),
        ("copies", "two"),
    ]


def test_two_workers_at_once_give_each_instance_to_each_destination_once(
    uow_factory, clock, policy_of
) -> None:
    ids = store(uow_factory, *(an_image(n, series_instance_uid=f"{SERIES}.{n % 4}") for n in range(1, 61)))
    policy = policy_of()
    gate = threading.Barrier(3)
    totals: list[int] = []

    def work() -> None:
        gate.wait()
        totals.append(route_received(uow_factory, clock, policy, batch_instances=7).routed)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(totals) == 60
    found = deliveries(uow_factory, *ids)
    assert len(found) == 8
    assert sum(d.items for d in found) == 120


def test_a_slice_of_time_ends_with_a_wake_up_for_the_rest(uow_factory, clock, queue, policy_of) -> None:
    store(uow_factory, *(an_image(n) for n in range(1, 6)))

    class Hurrying(FakeClock):
        def monotonic(self) -> float:
            self.elapsed_s += 25
            return self.elapsed_s

    result = route_received(uow_factory, Hurrying(), policy_of(), slice_s=60, batch_instances=1)
    assert result.more
    assert result.routed == 2
    assert len(queue.ids(Task.ROUTE)) == 1


# ---- orders ----------------------------------------------------------------------------------------------


def test_a_delivery_is_as_urgent_as_the_most_urgent_image_that_joins_it(
    uow_factory, clock, policy_of
) -> None:
    everything = {"name": "everything", "when": {"Modality": "CT"}, "send": ["cad"]}
    (first,) = store(uow_factory, an_image(1, accession_number=None))
    route_received(uow_factory, clock, policy_of(everything))
    (delivery,) = deliveries(uow_factory, first)
    assert delivery.priority == 4
    with uow_factory() as uow:
        a_stored_entry(uow, procedure={"attributes": {"RequestedProcedurePriority": "STAT"}})
        uow.commit()
    (second,) = store(uow_factory, an_image(2, accession_number=None))
    route_received(uow_factory, clock, policy_of(everything))
    (joined,) = deliveries(uow_factory, first, second)
    assert (joined.id, joined.priority, joined.items) == (delivery.id, 1, 2)


def test_an_image_joins_its_order_by_study_uid_and_rules_see_the_order(uow_factory, clock, policy_of) -> None:
    with uow_factory() as uow:
        entry = a_stored_entry(uow, procedure={"attributes": {"RequestedProcedurePriority": "STAT"}})
        uow.commit()
    (key,) = store(uow_factory, an_image(accession_number=None))
    stat = {
        "name": "stat",
        "when": {"order.priority": "STAT", "order.accession_number": "A1"},
        "send": ["cad"],
    }
    route_received(uow_factory, clock, policy_of(stat))
    (delivery,) = deliveries(uow_factory, key)
    assert (delivery.order, delivery.priority) == (entry.order.id, 1)
    with uow_factory() as uow:
        assert uow.instances.get(key).order == entry.order.id
        (decision,) = uow.decisions.of_study(STUDY)
    assert decision.facts["order.accession_number"] == ("A1",)
    assert decision.facts["calling_ae_title"] == ("CT1",)
    assert decision.conflicts == ()


def test_an_image_with_another_study_uid_joins_by_accession_and_patient_id(
    uow_factory, clock, policy_of
) -> None:
    with uow_factory() as uow:
        entry = a_stored_entry(uow)
        uow.commit()
    (mine, foreign, nobody) = store(
        uow_factory,
        an_image(1, study_instance_uid="9.1"),
        an_image(
            2, study_instance_uid="9.2", facts={**MATCHING_FACTS, "PatientID": ("OTHER",)}, patient_id="OTHER"
        ),
        an_image(3, study_instance_uid="9.3", facts={}, patient_id=None),
    )
    route_received(uow_factory, clock, policy_of())
    with uow_factory() as uow:
        orders = [uow.instances.get(key).order for key in (mine, foreign, nobody)]
        assert orders == [entry.order.id, None, None]
        assert [d.conflicts for key in ("9.1", "9.2", "9.3") for d in uow.decisions.of_study(key)] == [
            (),
            (),
            (),
        ]


def test_another_patient_under_the_study_uid_of_an_order_is_a_conflict(
    uow_factory, clock, policy_of, engine
) -> None:
    with uow_factory() as uow:
        a_stored_entry(uow)
        uow.commit()
    facts = {**MATCHING_FACTS, "PatientID": ("OTHER",), "PatientName": ("MOZART^WOLFGANG",)}
    wrong = [an_image(n, facts=facts, patient_id="OTHER") for n in (1, 2, 3)]
    policy = policy_of(
        {"name": "all", "send": ["archive", "cad", "film"]},
        {"name": "by-order", "when": {"order.accession_number": {"exists": True}}, "send": ["copies"]},
    )
    ids = store(uow_factory, *wrong[:2])
    route_received(uow_factory, clock, policy)
    ids += store(uow_factory, wrong[2])
    route_received(uow_factory, clock, policy)
    archive, cad, film = deliveries(uow_factory, *ids)
    assert (archive.state, cad.state, film.state) == (S.PENDING, S.COLLECTING, S.DEAD)
    assert (film.reason, film.items) == (HELD_FOR_IDENTITY, 3), (
        "one held film for the series, not one per image"
    )
    assert archive.order is None
    assert event_names(uow_factory, engine)["identity conflict"] == 2
    with uow_factory() as uow:
        assert {d.conflicts for d in uow.decisions.of_study(STUDY)} == {("identity",)}
        assert uow.instances.get(ids[0]).order is None


@pytest.mark.parametrize(
    ("facts", "agreement"),
    [
        ({"PatientID": ("PID1",)}, Agreement.SAME),
        ({"PatientID": ("PID1",), "IssuerOfPatientID": ("HOSP",)}, Agreement.SAME),
        ({"PatientID": ("PID1",), "IssuerOfPatientID": ("ELSEWHERE",)}, Agreement.DIFFERENT),
        ({"PatientID": ("OLD",)}, Agreement.SAME),
        (
            {"PatientID": ("TEMP7",), "PatientName": ("Haydn1^Joseph^F",), "PatientBirthDate": ("17320331",)},
            Agreement.PROBABLE,
        ),
        ({"PatientName": ("HAYDN1^JOSEPH",), "PatientBirthDate": ("17320331",)}, Agreement.PROBABLE),
        ({"PatientName": ("HAYDN1^MICHAEL",), "PatientBirthDate": ("17320331",)}, Agreement.DIFFERENT),
        ({"PatientID": ("TEMP7",), "PatientName": ("HAYDN1^JOSEPH",)}, Agreement.DIFFERENT),
        ({"PatientName": ("HAYDN1^JOSEPH",)}, Agreement.UNKNOWN),
        ({"PatientName": ("^^",)}, Agreement.UNKNOWN),
        ({}, Agreement.UNKNOWN),
    ],
)
def test_who_agrees_with_a_stored_patient(uow_factory, facts, agreement: Agreement) -> None:
    with uow_factory() as uow:
        patient = uow.patients.add(a_patient(other_ids=(PatientIdentifier("OLD", "HOSP"),)), now=NOW)
        assert agreement_of(uow, patient, facts) is agreement


def test_a_merged_patient_agrees_under_the_old_identifier(uow_factory) -> None:
    with uow_factory() as uow:
        survivor = uow.patients.add(a_patient(1), now=NOW)
        absorbed = uow.patients.add(a_patient(2), now=NOW)
        uow.patients.merge(absorbed=absorbed.id, survivor=survivor.id, now=NOW)
        assert agreement_of(uow, survivor, {"PatientID": ("PID2",)}) is Agreement.SAME


def test_images_that_came_before_their_order_find_it_later(uow_factory, clock, queue, policy_of) -> None:
    stat = policy_of({"name": "stat", "when": {"order.accession_number": "A1"}, "send": ["cad"]})
    (key, foreign) = store(
        uow_factory,
        an_image(1),
        an_image(2, facts={**MATCHING_FACTS, "PatientID": ("OTHER",)}, patient_id="OTHER"),
    )
    route_received(uow_factory, clock, stat)
    assert state_of(uow_factory, key) is InstanceState.UNROUTED
    queue.take()
    with uow_factory() as uow:
        entry = a_stored_entry(uow)
        assert join_late(uow, STUDY) == 1
        assert join_late(uow, STUDY) == 0
        uow.commit()
    assert queue.ids(Task.ROUTE) == [key]
    route_received(uow_factory, clock, stat)
    (delivery,) = deliveries(uow_factory, key)
    assert (delivery.route, delivery.order) == ("stat", entry.order.id)
    assert deliveries(uow_factory, foreign) == []


# ---- completion ------------------------------------------------------------------------------------------


def finished(uow, *uids: str, status=PerformedStatus.COMPLETED) -> None:
    step = replace(a_performed_step(), status=status, series={SERIES: uids})
    uow.performed.add(step, now=NOW)


def test_a_finished_performed_step_that_lists_all_images_shortens_the_wait(
    uow_factory, clock, queue, policy_of
) -> None:
    images = [an_image(1), an_image(2)]
    with uow_factory() as uow:
        finished(uow, *(image.sop_instance_uid for image in images))
        uow.commit()
    policy = policy_of(ROUTES[0])
    (first,) = store(uow_factory, images[0])
    route_received(uow_factory, clock, policy)
    (waiting,) = deliveries(uow_factory, first)
    assert waiting.state is S.COLLECTING
    store(uow_factory, images[1])
    route_received(uow_factory, clock, policy)
    (ready,) = deliveries(uow_factory, first)
    assert (ready.state, ready.due_at, ready.items) == (S.PENDING, clock.now(), 2)
    assert queue.ids(Task.DELIVER) == [ready.id]


def test_the_performed_step_may_finish_after_the_last_image(uow_factory, clock, policy_of) -> None:
    (key,) = store(uow_factory, an_image())
    route_received(uow_factory, clock, policy_of(ROUTES[0]))
    with uow_factory() as uow:
        finished(uow, an_image().sop_instance_uid, status=PerformedStatus.DISCONTINUED)
        assert len(release_complete_series(uow, STUDY, now=clock.now())) == 1
        assert release_complete_series(uow, STUDY, now=clock.now()) == []
        uow.commit()
    assert deliveries(uow_factory, key)[0].state is S.PENDING


def test_a_series_leaves_when_its_step_is_reported_finished(uow_factory, clock, queue, policy_of) -> None:
    (key,) = store(uow_factory, an_image())
    route_received(uow_factory, clock, policy_of(ROUTES[0]))
    listed = {SERIES: (an_image().sop_instance_uid,)}
    items = (PerformedItem(study_instance_uid=STUDY),)
    state = PerformedState(PerformedStatus.COMPLETED, b"", items=items, series=listed)

    class Finishes:
        def apply_to(self, data_set: bytes) -> PerformedState:
            return state

    with uow_factory() as uow:
        step = uow.performed.add(a_performed_step(series={}), now=NOW)
        uow.commit()
    queue.take()
    with uow_factory() as uow:
        update_performed_step(PerformedWork(uow, clock, WorklistEncoder()), step.sop_instance_uid, Finishes())
        uow.commit()
    (delivery,) = deliveries(uow_factory, key)
    assert delivery.state is S.PENDING
    assert queue.ids(Task.DELIVER) == [delivery.id]


@pytest.mark.parametrize(
    ("status", "listed"),
    [
        (PerformedStatus.IN_PROGRESS, ("1.2.826.0.2.1",)),
        (PerformedStatus.COMPLETED, ("1.2.826.0.2.1", "1.2.826.0.2.2")),
        (PerformedStatus.COMPLETED, ("1.2.826.0.2.1", "1.2.826.0.2.5")),
        (PerformedStatus.COMPLETED, ()),
    ],
)
def test_a_step_in_progress_or_with_missing_images_shortens_nothing(
    uow_factory, clock, policy_of, status, listed
) -> None:
    (key,) = store(uow_factory, an_image(1))
    route_received(uow_factory, clock, policy_of(ROUTES[0]))
    store(uow_factory, an_image(5))  # here, but nobody has routed it yet
    with uow_factory() as uow:
        finished(uow, *listed, status=status)
        assert release_complete_series(uow, STUDY, now=clock.now()) == []
        uow.commit()
    assert deliveries(uow_factory, key)[0].state is S.COLLECTING


# ---- people ----------------------------------------------------------------------------------------------


def test_an_operator_lets_routing_look_again_at_what_no_route_took(
    uow_factory, clock, queue, policy_of
) -> None:
    (key, routed) = store(uow_factory, an_image(1, facts={"Modality": ("XX",)}), an_image(2))
    route_received(uow_factory, clock, policy_of())
    assert reroute(STUDY, uow_factory, actor="ruiz") == 1
    assert state_of(uow_factory, key) is InstanceState.RECEIVED
    assert state_of(uow_factory, routed) is InstanceState.ROUTED
    assert queue.ids(Task.ROUTE) == [key]
    route_received(uow_factory, clock, policy_of({"name": "now", "send": ["archive"]}))
    assert [d.route for d in deliveries(uow_factory, key)] == ["now"]
    assert reroute(STUDY, uow_factory, actor="ruiz") == 0


def test_a_study_explains_itself_from_what_was_kept(uow_factory, clock, policy_of) -> None:
    images = [an_image(n) for n in (1, 2)] + [an_image(3, facts={"Modality": ("SR",)})]
    store(uow_factory, *images)
    route_received(uow_factory, clock, policy_of())

    def routes_of(body: str):
        return compile_routes(ast.literal_eval(body), known_keyword=known_keyword)

    with uow_factory() as uow:
        told = explain_study(uow, STUDY, routes_of=routes_of)
        assert explain_study(uow, "9.9", routes_of=routes_of) == []
    assert [(r.route, r.matched, r.instances) for r in told] == [
        ("ct-to-cad", True, 2),
        ("ct-to-cad", False, 1),
        ("all-to-archive", True, 2),
        ("all-to-archive", True, 1),
    ]
    refused = told[1].clauses[0]
    assert (refused.clause, refused.holds, refused.seen) == ("Modality is CT", False, "SR (image header)")
    assert told[0].destinations == ("cad",)


def test_an_explanation_shows_the_tree_of_a_condition_flat() -> None:
    routes = compile_routes(
        [
            {"name": "first", "send": ["a"], "stop": True},
            {
                "name": "second",
                "send": ["b"],
                "when": {"any": [{"Modality": "CT"}, {"Modality": "MR", "Rows": {"min": 5}}]},
            },
        ],
        known_keyword=known_keyword,
    )
    first, second = explain_facts(routes, {"Modality": ("MR",)})
    assert [(c.clause, c.holds) for c in first.clauses] == [("always", True)]
    assert not second.matched
    assert [(c.depth, c.clause, c.holds, c.seen) for c in second.clauses] == [
        (0, "no earlier route stops the list", False, "stopped by first"),
        (0, "one of these holds", False, ""),
        (1, "Modality is CT", False, "MR (image header)"),
        (1, "all of these hold", False, ""),
        (2, "Modality is MR", True, "MR (image header)"),
        (2, "Rows is at least 5", False, "missing (image header)"),
    ]
