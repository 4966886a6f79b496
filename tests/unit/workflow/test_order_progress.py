"""Orders on hold, arrived, begun and complete, and what may change after the start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.domain.orders import Code
from broker.domain.orders import OrderAction as A
from broker.domain.steps import OrderStatus, StepEvent, StepStatus
from broker.errors import RecordLocked, UnknownOrder
from tests.ris import CANCELED, HAYDN, POLICY, SCHEDULED, a_procedure, a_status, a_step, an_order
from tests.unit.workflow.order_desk import refused

# ---- hold, release, arrive, complete -------------------------------------------------------------------


def test_hold_and_release_restore_what_was_before(ris):
    ris.send()
    ris.send(a_status(A.ARRIVE, "SC"))
    ris.send(a_status(A.HOLD, "HD"))
    assert ris.statuses() == {"S1": "HELD"}
    assert ris.entry().order.status is OrderStatus.HELD
    ris.send(a_status(A.RELEASE, "RL"))
    assert ris.statuses() == {"S1": "ARRIVED"}


@pytest.mark.parametrize("action", [A.HOLD, A.RELEASE])
def test_holding_or_releasing_an_unknown_order_is_for_a_person(ris, action):
    refused(ris, UnknownOrder, a_status(action, "HD"))


def test_a_new_order_on_hold_is_created_on_hold(ris):
    ris.send(an_order(A.HOLD, "NW"))
    assert ris.statuses() == {"S1": "HELD"}
    ris.send(a_status(A.RELEASE, "RL"))
    assert ris.statuses() == {"S1": SCHEDULED}


def test_a_change_to_complete_applies_the_change_too(ris):
    ris.send()
    ris.send(an_order(A.COMPLETE, "XO", changes={"RequestingPhysician": "NEW^NAME"}))
    assert ris.statuses() == {"S1": "COMPLETED"}
    assert ris.entry().order.attributes["RequestingPhysician"] == "NEW^NAME"


@pytest.mark.parametrize(
    ("action", "control"),
    [(A.COMPLETE, "SC"), (A.COMPLETE, "XO"), (A.ARRIVE, "SC"), (A.RESCHEDULE_STATUS, "SC")],
)
def test_a_mere_status_of_an_unknown_order_is_ignored(ris, action, control):
    before = ris.snapshot()
    done = ris.send(a_status(action, control))
    assert done.warnings
    assert ris.snapshot() == before


def test_a_status_that_tells_the_whole_order_creates_it(ris):
    ris.send(an_order(A.RESCHEDULE_STATUS, "SC"))
    assert ris.statuses() == {"S1": SCHEDULED}


def test_a_site_may_create_orders_first_heard_of_when_complete(ris):
    ris.policy = replace(POLICY, create_completed=True)
    ris.send(an_order(A.COMPLETE, "XO"))
    assert ris.statuses() == {"S1": "COMPLETED"}


@pytest.mark.parametrize(
    ("event", "after"),
    [
        (StepEvent.PATIENT_ARRIVED, SCHEDULED),
        (StepEvent.MPPS_IN_PROGRESS, "STARTED"),
        (StepEvent.MPPS_COMPLETED, "COMPLETED"),
        (StepEvent.ORDER_CANCELED, CANCELED),
    ],
)
def test_rescheduling_by_status_never_undoes_what_a_scanner_did(ris, event, after):
    ris.send()
    ris.happen(event)
    ris.send(a_status(A.RESCHEDULE_STATUS, "SC"))
    assert ris.statuses() == {"S1": after}


# ---- changes after the start ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        a_step("S1", Modality="MR"),
        a_step("S1", ScheduledStationAETitle=("CT2",)),
        a_step("S1", ScheduledProtocolCodeSequence=(Code("X", "L", "x"),)),
    ],
    ids=["modality", "station", "protocol"],
)
@pytest.mark.parametrize("event", [StepEvent.MPPS_IN_PROGRESS, StepEvent.MPPS_COMPLETED])
def test_what_the_scanner_was_told_does_not_change_after_the_start(ris, step, event):
    ris.send()
    ris.happen(event)
    problem = refused(ris, RecordLocked, an_order(A.CHANGE, "XO", a_procedure("RP1", None, step)))
    assert problem.hl7_condition == "206"


def test_the_accession_number_does_not_change_after_the_start(ris):
    ris.send()
    ris.happen(StepEvent.MPPS_IN_PROGRESS)
    refused(ris, RecordLocked, an_order(A.CHANGE, "XO", accession_number="A2"))


def test_the_accession_number_changes_before_the_start(ris):
    ris.send()
    ris.send(an_order(A.CHANGE, "XO", accession_number="A2"))
    assert "|A2|" in ris.elements()[0]


def test_comments_physicians_and_the_patient_change_after_the_start(ris):
    ris.send()
    ris.happen(StepEvent.MPPS_IN_PROGRESS)
    step = a_step("S1", CommentsOnTheScheduledProcedureStep="allergic")
    order = an_order(
        A.CHANGE, "XO", a_procedure("RP1", None, step), changes={"RequestingPhysician": "NEW^NAME"}
    )
    ris.send(order, patient=replace(HAYDN, changes={"PatientWeight": "80"}))
    entry = ris.entry()
    assert entry.step.attributes["CommentsOnTheScheduledProcedureStep"] == "allergic"
    assert entry.order.attributes["RequestingPhysician"] == "NEW^NAME"
    assert entry.patient.attributes["PatientWeight"] == "80"
    assert entry.step.status is StepStatus.STARTED


def test_the_same_values_again_are_no_change_after_the_start(ris):
    ris.send()
    ris.happen(StepEvent.MPPS_COMPLETED)
    done = ris.send()
    assert done.unchanged
    assert ris.statuses() == {"S1": "COMPLETED"}


def test_a_site_may_allow_changes_after_the_start(ris):
    ris.policy = replace(POLICY, allow_change_after_start=True)
    ris.send()
    ris.happen(StepEvent.MPPS_IN_PROGRESS)
    ris.send(an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1", Modality="MR"))))
    assert ris.entry().step.modality == "MR"
