"""What a new order becomes, what a later message adds to it, and what keeps its step off the worklist."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.domain.events import EventName
from broker.domain.orders import Code
from broker.domain.orders import OrderAction as A
from broker.domain.steps import OrderStatus, StepStatus
from broker.errors import MissingValue, UnknownOrder
from tests.ris import POLICY, SCHEDULED, a_procedure, a_status, a_step, an_order
from tests.unit.workflow.order_desk import refused

# ---- placing -------------------------------------------------------------------------------------------


def test_a_new_order_becomes_a_worklist_entry(ris):
    done = ris.send()
    entry = ris.entry()
    assert done.created == (entry.order.id,)
    assert entry.patient.name == "HAYDN^JOSEPH"
    assert entry.order.accession_number == "A1"
    assert entry.order.status is OrderStatus.SCHEDULED
    assert entry.procedure.requested_procedure_id == "RP1"
    assert entry.step.status is StepStatus.SCHEDULED
    assert entry.step.modality == "CT"
    assert entry.step.missing == ()
    assert ris.elements() == [
        f"HAYDN^JOSEPH|P1|A1|RP1|{entry.procedure.study_instance_uid}|S1|CT|CT1|SCHEDULED"
    ]


def test_the_timeline_names_the_order_and_the_message(ris):
    done = ris.send()
    events = ris.events(EventName.PATIENT_CREATED, EventName.ORDER_PLACED, EventName.STEP_SCHEDULED)
    assert [event.name for event in events] == ["patient created", "order placed", "step scheduled"]
    assert all(event.details["message_control_id"] == "M1" for event in events)
    assert {event.order for event in events[1:]} == set(done.created)
    assert events[0].actor == "RIS"


def test_the_same_message_again_changes_nothing(ris):
    ris.send(sent_at=ris.clock.now())
    before = ris.snapshot()
    done = ris.send(sent_at=ris.clock.now())
    assert (done.created, done.changed) == ((), ())
    assert len(done.unchanged) == 1
    assert ris.snapshot() == before


def test_a_repeated_placement_is_an_update_and_never_a_second_entry(ris):
    ris.send()
    done = ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step("S1", Modality="MR"))))
    assert len(done.changed) == 1
    assert ris.entry().step.modality == "MR"
    event = ris.events(EventName.STEP_CHANGED)[-1]
    assert event.details["changed"] == ["Modality: CT -> MR"]
    assert event.details["sources"] == ["Modality: OBR-24"]
    assert event.order == ris.entry().order.id


@pytest.mark.parametrize("action", [A.PLACE, A.CHANGE])
def test_a_change_of_an_unknown_order_creates_it(ris, action):
    assert len(ris.send(an_order(action, "XO")).created) == 1
    assert ris.statuses() == {"S1": SCHEDULED}


def test_a_site_may_refuse_changes_of_unknown_orders(ris):
    ris.policy = replace(POLICY, refuse_unknown_change=True)
    assert refused(ris, UnknownOrder, an_order(A.CHANGE, "XO")).hl7_condition == "204"


def test_an_order_without_any_number_is_refused_because_nobody_could_cancel_it(ris):
    order = an_order(placer_order_number=None, filler_order_number=None, accession_number=None)
    refused(ris, MissingValue, order)


def test_an_order_without_an_accession_number_is_taken_and_flagged(ris):
    done = ris.send(an_order(accession_number=None))
    assert done.warnings == ("the order has no accession number",)
    assert ris.entry().order.accession_number is None
    assert ris.entry().step.missing == ()


def test_ignored_actions_touch_nothing(ris):
    before = ris.snapshot()
    assert ris.send(an_order(A.IGNORE, "OK")).orders == ()
    assert ris.snapshot() == before


def test_an_order_without_procedures_still_gets_a_step(ris):
    ris.send(a_status(A.PLACE, "NW"))
    assert ris.entry().step.missing
    assert ris.entry().procedure.requested_procedure_id == "A1-1"


# ---- empty, null, absent -------------------------------------------------------------------------------


def test_absent_and_empty_keep_null_clears_and_a_value_replaces(ris):
    ris.send(
        an_order(changes={"RequestingPhysician": "A^B", "RequestingService": "ICU", "OrderEnteredBy": "X^Y"})
    )
    ris.send(
        an_order(
            A.CHANGE, "XO", changes={"RequestingPhysician": None, "RequestingService": "", "Comments": "hi"}
        )
    )
    assert ris.entry().order.attributes == {
        "RequestingService": "ICU",
        "OrderEnteredBy": "X^Y",
        "Comments": "hi",
    }


def test_a_cleared_type_1_value_takes_the_step_off_the_worklist(ris):
    ris.send()
    done = ris.send(
        an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1", ScheduledProcedureStepStartDate=None)))
    )
    assert ris.entry().step.missing == ("ScheduledProcedureStepStartDate",)
    assert "not on the worklist" in done.warnings[0]


# ---- stations, times, completeness ---------------------------------------------------------------------


def test_a_step_without_station_may_be_done_on_every_device_of_its_modality(ris):
    ris.send(
        an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step("S1", ScheduledStationAETitle="absent")))
    )
    assert ris.entry().step.station_ae_titles == ("CT1", "CT2")
    assert ris.entry().step.missing == ()


def test_filled_in_stations_follow_the_modality(ris):
    step = {"ScheduledStationAETitle": "absent"}
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step("S1", **step))))
    ris.send(an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1", Modality="MR", **step))))
    assert ris.entry().step.station_ae_titles == ("MR1",)


def test_stations_the_ris_named_do_not_follow_the_modality(ris):
    ris.send()
    step = a_step("S1", Modality="MR", ScheduledStationAETitle="absent")
    ris.send(an_order(A.CHANGE, "XO", a_procedure("RP1", None, step)))
    assert ris.entry().step.station_ae_titles == ("CT1",)


def test_a_modality_nobody_does_is_unassigned_and_said(ris):
    step = a_step("S1", Modality="US", ScheduledStationAETitle="absent")
    done = ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", None, step)))
    assert ris.entry().step.station_ae_titles == ("UNASSIGNED",)
    assert any("no device does US" in warning for warning in done.warnings)


def test_a_day_without_a_time_matches_the_whole_day(ris):
    step = a_step("S1", ScheduledProcedureStepStartTime="absent", time_unspecified=True)
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", None, step)))
    assert (ris.entry().step.start_time, ris.entry().step.time_unspecified) == ("000000", True)
    ris.send(an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1"))))
    assert (ris.entry().step.start_time, ris.entry().step.time_unspecified) == ("093000", False)


@pytest.mark.parametrize(
    ("keyword", "missing"),
    [
        ("Modality", ("Modality",)),
        ("ScheduledProcedureStepStartDate", ("ScheduledProcedureStepStartDate",)),
        ("ScheduledProcedureStepDescription", ("ScheduledProcedureStepDescription",)),
    ],
)
def test_a_step_that_lacks_a_type_1_value_is_kept_but_not_offered(ris, keyword, missing):
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step("S1", **{keyword: "absent"}))))
    assert ris.entry().step.missing == missing
    (event,) = ris.events(EventName.ORDER_INCOMPLETE)
    assert event.details["missing"] == list(missing)
    assert ris.snapshot()["scheduled_procedure_step"][0]["offered"] is False


def test_a_code_does_for_a_description(ris):
    code = (Code("CTCH", "99LOCAL", "CT chest"),)
    step = a_step("S1", ScheduledProcedureStepDescription="absent", ScheduledProtocolCodeSequence=code)
    procedure = a_procedure(
        "RP1", None, step, RequestedProcedureDescription="", RequestedProcedureCodeSequence=code
    )
    ris.send(an_order(A.PLACE, "NW", procedure))
    assert ris.entry().step.missing == ()
    assert ris.entry().procedure.attributes["RequestedProcedureCodeSequence"] == code


def test_an_incomplete_step_is_offered_once_the_rest_has_come(ris):
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step("S1", Modality="absent"))))
    ris.send()
    assert ris.entry().step.missing == ()
    assert ris.snapshot()["scheduled_procedure_step"][0]["offered"] is True
