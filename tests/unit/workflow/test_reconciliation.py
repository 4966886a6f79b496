"""Images find their order and its patient, or are held as a conflict."""

from __future__ import annotations

import pytest

from broker.domain.delivery import DeliveryState as S
from broker.domain.orders import PatientIdentifier
from broker.workflow.images_port import InstanceState
from broker.workflow.reconciliation import Agreement, agreement_of, join_late
from broker.workflow.routing import HELD_FOR_IDENTITY, route_received
from broker.workflow.wake_ups import Task
from tests.builders import NOW, a_patient, a_stored_entry
from tests.unit.workflow.routed_images import (
    MATCHING_FACTS,
    STUDY,
    an_image,
    deliveries,
    event_names,
    state_of,
    store,
)


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
