"""Cancelling, discontinuing and reinstating orders, known and unknown."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.events import EventName
from broker.domain.orders import OrderAction as A
from broker.domain.steps import OrderStatus, StepEvent
from broker.errors import RecordLocked, UnknownOrder
from tests.ris import CANCELED, POLICY, SCHEDULED, a_procedure, a_status, a_step, an_order
from tests.unit.workflow.order_desk import refused

# ---- cancel, discontinue, reinstate --------------------------------------------------------------------


@pytest.mark.parametrize(("action", "status"), [(A.CANCEL, "CANCELED"), (A.DISCONTINUE, "DISCONTINUED")])
def test_a_cancelled_order_leaves_the_worklist(ris, action, status):
    ris.send()
    done = ris.send(a_status(action, "CA"))
    assert len(done.changed) == 1
    assert ris.statuses() == {"S1": status}
    assert ris.entry().order.status.value == status
    assert ris.snapshot()["scheduled_procedure_step"][0]["offered"] is False
    (event,) = ris.events(EventName.ORDER_STATUS_CHANGED)
    assert (event.details["before"], event.details["after"]) == ("SCHEDULED", status)


def test_a_site_may_call_discontinued_what_never_began_cancelled(ris):
    ris.policy = replace(POLICY, discontinued_before_start_is_canceled=True)
    ris.send()
    ris.send(a_status(A.DISCONTINUE, "DC"))
    assert ris.statuses() == {"S1": CANCELED}


def test_a_cancellation_that_names_a_step_cancels_that_one(two_steps):
    two_steps.send(an_order(A.CANCEL, "CA", a_procedure("RP1", None, a_step("S2"))))
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": CANCELED}
    assert two_steps.entries()[0].order.status is OrderStatus.SCHEDULED


def test_a_cancellation_that_names_no_step_cancels_all(two_steps):
    two_steps.send(a_status(A.CANCEL, "CA"))
    assert two_steps.statuses() == {"S1": CANCELED, "S2": CANCELED}


def test_a_cancellation_of_a_step_nobody_knows_cancels_the_order(ris):
    ris.send()
    ris.send(an_order(A.CANCEL, "CA", a_procedure("RP1", None, a_step("OTHER"))))
    assert ris.statuses() == {"S1": CANCELED}


@pytest.mark.parametrize("action", [A.CANCEL, A.DISCONTINUE, A.HOLD])
def test_a_procedure_in_progress_is_not_cancelled(ris, action):
    ris.send()
    ris.happen(StepEvent.MPPS_IN_PROGRESS)
    assert refused(ris, RecordLocked, a_status(action, "CA")).hl7_condition == "206"


@pytest.mark.parametrize("action", [A.CANCEL, A.DISCONTINUE, A.HOLD])
def test_a_completed_procedure_stays_completed_with_a_warning(ris, action):
    ris.send()
    ris.happen(StepEvent.MPPS_COMPLETED)
    done = ris.send(a_status(action, "CA"))
    assert ris.statuses() == {"S1": "COMPLETED"}
    assert "COMPLETED stays so" in done.warnings[0]


def test_cancelling_twice_is_cancelling_once(ris):
    ris.send()
    ris.send(a_status(A.CANCEL, "CA"))
    before = ris.snapshot()
    done = ris.send(a_status(A.CANCEL, "CA"))
    assert (done.changed, done.warnings) == ((), ())
    assert ris.snapshot() == before


def test_a_newer_placement_brings_a_cancelled_order_back(ris):
    ris.send()
    ris.send(a_status(A.CANCEL, "CA"))
    ris.send()
    assert ris.statuses() == {"S1": SCHEDULED}
    assert ris.entry().order.status is OrderStatus.SCHEDULED


def test_a_newer_placement_in_groups_brings_all_steps_back(two_steps):
    two_steps.send(a_status(A.CANCEL, "CA"))
    two_steps.send(*[an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step(f"S{n}"))) for n in (1, 2)])
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED}


def test_an_older_placement_does_not_bring_a_cancelled_order_back(ris):
    early = ris.clock.now()
    ris.send()
    ris.send(a_status(A.CANCEL, "CA"))
    before = ris.snapshot()
    done = ris.send(an_order(changes={"RequestingPhysician": "LATE^LETTER"}), sent_at=early)
    assert len(done.ignored) == 1
    assert "stays cancelled" in done.warnings[0]
    assert ris.snapshot() == before


def test_a_creation_time_repeated_in_orc_9_does_not_stop_a_reinstatement(ris):
    created = ris.clock.now()
    ris.send(an_order(occurred_at=created))
    ris.send(a_status(A.CANCEL, "CA", occurred_at=created))
    ris.send(an_order(occurred_at=created))
    assert ris.statuses() == {"S1": SCHEDULED}


def test_an_appointment_in_orc_9_does_not_stop_a_reinstatement(ris):
    later = ris.clock.now() + timedelta(days=3)
    ris.send(an_order(occurred_at=later))
    ris.send(a_status(A.CANCEL, "CA", occurred_at=later))
    ris.send(an_order(occurred_at=later))
    assert ris.statuses() == {"S1": SCHEDULED}


def test_a_change_does_not_bring_a_cancelled_order_back(ris):
    ris.send()
    ris.send(a_status(A.CANCEL, "CA"))
    done = ris.send(an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "NEW^NAME"}))
    assert ris.statuses() == {"S1": CANCELED}
    assert any("does not bring it back" in warning for warning in done.warnings)
    assert ris.entry().order.attributes["RequestingPhysician"] == "NEW^NAME"


def test_a_change_brings_it_back_where_the_site_says_so(ris):
    ris.policy = replace(POLICY, reopen=True)
    ris.send()
    ris.send(a_status(A.CANCEL, "CA"))
    ris.send(an_order(A.CHANGE, "XO"))
    assert ris.statuses() == {"S1": SCHEDULED}


def test_a_replacement_in_the_message_of_the_cancellation_is_placed(ris):
    ris.send()
    ris.send(
        a_status(A.CANCEL, "RP"),
        an_order(A.PLACE, "RO", a_procedure("RP1", None, a_step("S1", Modality="MR"))),
    )
    assert ris.statuses() == {"S1": SCHEDULED}
    assert ris.entry().step.modality == "MR"


def test_a_cancellation_that_describes_the_order_changes_nothing_else_of_it(ris):
    ris.send()
    ris.send(an_order(A.CANCEL, "XO", a_procedure("RP1", None, a_step("S1", Modality="MR"))))
    assert ris.statuses() == {"S1": CANCELED}
    assert ris.entry().step.modality == "CT"


# ---- cancelling what is not known ----------------------------------------------------------------------


def test_the_cancel_of_an_unknown_order_holds_back_an_older_placement(ris):
    written = ris.clock.now()
    ris.send(a_status(A.CANCEL, "CA"))
    done = ris.send(sent_at=written)
    assert len(done.ignored) == 1
    assert ris.entries() == []
    assert ris.orders()[0].status is OrderStatus.CANCELED


def test_a_newer_placement_is_not_held_back(ris):
    ris.send(a_status(A.CANCEL, "CA"))
    ris.send()
    assert ris.statuses() == {"S1": SCHEDULED}
    assert len(ris.orders()) == 1
    assert ris.orders()[0].status is OrderStatus.SCHEDULED


def test_the_memory_of_an_unknown_cancel_fades(ris):
    written = ris.clock.now()
    ris.send(a_status(A.CANCEL, "CA"))
    ris.clock.advance(hours=25)
    ris.send(sent_at=written)
    assert ris.statuses() == {"S1": SCHEDULED}


def test_a_strict_site_refuses_the_cancel_of_an_unknown_order(ris):
    ris.policy = replace(POLICY, refuse_unknown_cancel=True)
    refused(ris, UnknownOrder, a_status(A.CANCEL, "CA"))
