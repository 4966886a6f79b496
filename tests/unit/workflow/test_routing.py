"""Routing: from received rows to deliveries, once, with reasons that can be told afterwards."""

from __future__ import annotations

import ast
import threading
from datetime import timedelta

import pytest

from broker.dicom.objects.header import known_keyword
from broker.domain.delivery import DeliveryState as S
from broker.domain.rules import compile_routes
from broker.workflow.completion import CompletionPolicy
from broker.workflow.explain import explain_facts, explain_study
from broker.workflow.images_port import InstanceState
from broker.workflow.routing import Purpose, purpose_of, reroute, route, route_received
from broker.workflow.wake_ups import Task
from tests.builders import a_stored_entry
from tests.fakes.clock import FakeClock
from tests.unit.workflow.routed_images import (
    ROUTES,
    SERIES,
    STUDY,
    an_image,
    deliveries,
    event_names,
    state_of,
    store,
)


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
