"""What order messages do to stored orders, row by row, on a real database."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.events import EventName
from broker.domain.orders import Code, EntityIdentifier, OrderAction, PatientDetails, PatientIdentifier
from broker.domain.steps import OrderStatus, StepEvent, StepStatus
from broker.domain.uids import derive_study_instance_uid, surrogate_id
from broker.errors import (
    AmbiguousOrder,
    Conflict,
    DuplicateKey,
    InvalidValue,
    MissingValue,
    RecordLocked,
    UnknownOrder,
    WrongPatient,
)
from broker.workflow.order_policy import MissingStudyUid
from tests.ris import (
    CANCELED,
    HAYDN,
    MOZART,
    NAMESPACE,
    POLICY,
    SCHEDULED,
    Ris,
    a_procedure,
    a_status,
    a_step,
    an_order,
)

A = OrderAction


@pytest.fixture
def ris(sqlite_engine):
    return Ris(sqlite_engine)


@pytest.fixture
def two_steps(ris):
    """An order with two steps of one procedure."""
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step("S1"), a_step("S2"))))
    return ris


def refused(ris, kind, *orders, **options):
    """Send, expect a refusal, and see that nothing at all has changed."""
    before = ris.snapshot()
    with pytest.raises(kind) as problem:
        ris.send(*orders, **options)
    assert ris.snapshot() == before
    return problem.value


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


# ---- ids -----------------------------------------------------------------------------------------------


def test_the_study_uid_is_derived_from_what_the_ris_gave(ris):
    ris.send()
    assert ris.entry().procedure.study_instance_uid == derive_study_instance_uid(
        NAMESPACE, issuer=None, accession_number="A1", requested_procedure_id="RP1"
    )


def test_a_sent_study_uid_is_taken(ris):
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", "1.2.3")))
    assert ris.entry().procedure.study_instance_uid == "1.2.3"


def test_a_malformed_study_uid_is_refused(ris):
    assert (
        refused(ris, InvalidValue, an_order(A.PLACE, "NW", a_procedure("RP1", "1.02.3"))).hl7_condition
        == "102"
    )


def test_a_site_may_insist_on_study_uids(ris):
    ris.policy = replace(POLICY, study_uid_missing=MissingStudyUid.REJECT)
    assert refused(ris, MissingValue).field == "StudyInstanceUID"


def test_a_study_uid_of_another_patient_is_a_conflict(ris):
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", "1.2.3")))
    other = an_order(
        A.PLACE,
        "NW",
        a_procedure("RP2", "1.2.3", a_step("S9")),
        accession_number="A2",
        placer_order_number=None,
        filler_order_number=None,
    )
    assert refused(ris, DuplicateKey, other, patient=MOZART).hl7_condition == "205"


def test_a_new_study_uid_replaces_the_old_one_until_the_scanner_begins(ris):
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", "1.2.3")))
    ris.send(an_order(A.CHANGE, "XO", a_procedure("RP1", "1.2.4")))
    assert ris.entry().procedure.study_instance_uid == "1.2.4"
    assert "|1.2.4|" in ris.elements()[0]
    ris.happen(StepEvent.MPPS_IN_PROGRESS)
    refused(ris, RecordLocked, an_order(A.CHANGE, "XO", a_procedure("RP1", "1.2.5")))


def test_ids_are_made_up_where_none_came(ris):
    ris.send(an_order(A.PLACE, "NW", a_procedure(None, None, a_step(None), a_step(None))))
    assert [e.procedure.requested_procedure_id for e in ris.entries()] == ["A1-1", "A1-1"]
    assert list(ris.statuses()) == ["A1-1", "A1-1.2"]


def test_made_up_ids_stay_when_the_message_comes_again(ris):
    order = an_order(A.PLACE, "NW", a_procedure(None, None, a_step(None), a_step(None)))
    ris.send(order)
    before = ris.snapshot()
    ris.send(order)
    assert ris.snapshot() == before


def test_a_made_up_id_gives_way_to_the_senders_own(ris):
    ris.send(an_order(A.PLACE, "NW", a_procedure(None, None, a_step(None))))
    ris.send(an_order(A.CHANGE, "XO", a_procedure("RP7", None, a_step("S7"))))
    assert ris.entry().procedure.requested_procedure_id == "RP7"
    assert ris.statuses() == {"S7": SCHEDULED}


def test_a_long_id_gets_a_surrogate_and_the_original_is_kept(ris):
    long = "REQUESTED-PROCEDURE-4711"
    ris.send(an_order(A.PLACE, "NW", a_procedure(long, None, a_step("STEP-OF-" + long))))
    procedure, step = ris.entry().procedure, ris.entry().step
    assert procedure.requested_procedure_id == surrogate_id(long)
    assert procedure.sources["RequestedProcedureID:original"] == long
    assert step.scheduled_procedure_step_id == surrogate_id("STEP-OF-" + long)
    assert step.sources["ScheduledProcedureStepID:original"] == "STEP-OF-" + long
    before = ris.snapshot()
    ris.send(an_order(A.PLACE, "NW", a_procedure(long, None, a_step("STEP-OF-" + long))))
    assert ris.snapshot() == before


def test_a_long_accession_number_is_refused_and_never_cut(ris):
    problem = refused(ris, InvalidValue, an_order(accession_number="12345678901234567"))
    assert (problem.hl7_condition, problem.field) == ("102", "AccessionNumber")


@pytest.mark.parametrize("identifiers", [(), (PatientIdentifier(" ", "HOSP"),)])
def test_a_patient_needs_an_identifier(ris, identifiers):
    refused(ris, MissingValue, patient=PatientDetails(identifiers))


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


# ---- which order is meant ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"placer_order_number": None, "filler_order_number": None},
        {"placer_order_number": None, "accession_number": None},
        {"filler_order_number": None, "accession_number": None},
        {
            "placer_order_number": EntityIdentifier("PL1"),
            "filler_order_number": None,
            "accession_number": None,
        },
    ],
    ids=["accession", "filler", "placer", "placer without authority"],
)
def test_one_number_is_enough_to_cancel(ris, fields):
    ris.send()
    ris.send(a_status(A.CANCEL, "CA", **fields))
    assert ris.statuses() == {"S1": CANCELED}


def test_the_study_uid_with_the_step_id_is_enough(ris):
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", "1.2.3")))
    numbers = dict.fromkeys(("placer_order_number", "filler_order_number", "accession_number"))
    ris.send(an_order(A.CANCEL, "CA", a_procedure(None, "1.2.3", a_step("S1")), **numbers))
    assert ris.statuses() == {"S1": CANCELED}


def test_an_order_named_by_nothing_but_its_study_uid_is_not_doubled(ris):
    numbers = dict.fromkeys(("placer_order_number", "filler_order_number", "accession_number"))
    for _ in range(2):
        ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", "1.2.3", a_step(None)), **numbers))
    assert len(ris.orders()) == 1
    ris.send(replace(an_order(A.CANCEL, "CA", a_procedure(None, "1.2.3")), **numbers))
    assert ris.statuses() == {"RP1": CANCELED}


def test_a_number_of_another_authority_is_another_order(ris):
    ris.send()
    other = {"filler_order_number": None, "accession_number": None}
    done = ris.send(a_status(A.CANCEL, "CA", placer_order_number=EntityIdentifier("PL1", "OTHER"), **other))
    assert ris.statuses() == {"S1": SCHEDULED}
    assert any("not known" in warning for warning in done.warnings)


def two_orders_under_one_filler_number(ris):
    for number in ("1", "2"):
        ris.send(
            an_order(
                A.PLACE,
                "NW",
                a_procedure(f"RP{number}", None, a_step(f"S{number}")),
                placer_order_number=None,
                filler_order_number=EntityIdentifier(f"F{number}"),
                accession_number=f"A{number}",
            )
        )
    for order in ris.orders():
        with ris.units() as uow:
            uow.orders.save(replace(order, filler_order_number=EntityIdentifier("F")), now=ris.clock.now())
            uow.commit()
    return {
        "placer_order_number": None,
        "filler_order_number": EntityIdentifier("F"),
        "accession_number": None,
    }


def test_more_than_one_order_that_fits_is_for_a_person(ris):
    numbers = two_orders_under_one_filler_number(ris)
    refused(ris, AmbiguousOrder, a_status(A.CHANGE, "XO", **numbers))
    refused(ris, AmbiguousOrder, a_status(A.CANCEL, "CA", **numbers))


def test_an_order_of_another_patient_is_not_changed(ris):
    ris.send()
    assert refused(ris, WrongPatient, an_order(A.CHANGE, "XO"), patient=MOZART).hl7_condition == "204"
    refused(ris, WrongPatient, a_status(A.CANCEL, "CA"), patient=MOZART)


def test_the_same_accession_for_another_patient_is_a_duplicate(ris):
    ris.send()
    order = an_order(placer_order_number=EntityIdentifier("PL2", "RIS"), filler_order_number=None)
    assert refused(ris, DuplicateKey, order, patient=MOZART).hl7_condition == "205"


def test_a_site_may_let_orders_move_to_another_patient(ris):
    ris.policy = replace(POLICY, move_order=True)
    ris.send()
    ris.send(an_order(A.CHANGE, "XO"), patient=MOZART)
    assert ris.entries() == []
    assert ris.entry(MOZART).order.accession_number == "A1"
    assert ris.elements()[0].startswith("MOZART^NANNERL|P2|")


def test_an_accession_in_use_cannot_be_given_to_another_order(ris):
    ris.send()
    ris.send(
        an_order(
            A.PLACE,
            "NW",
            a_procedure("RP2", None, a_step("S2")),
            accession_number="A2",
            placer_order_number=EntityIdentifier("PL2"),
            filler_order_number=None,
        )
    )
    moved = an_order(
        A.CHANGE,
        "XO",
        a_procedure("RP2", None, a_step("S2")),
        accession_number="A1",
        placer_order_number=EntityIdentifier("PL2"),
        filler_order_number=None,
    )
    refused(ris, DuplicateKey, moved)


@pytest.mark.parametrize("patient", [HAYDN, MOZART])
def test_an_accession_number_is_reused_after_ninety_days(ris, patient):
    ris.send(placer_free())
    ris.send(a_status(A.COMPLETE, "SC", placer_order_number=None, filler_order_number=None))
    ris.clock.advance(days=91)
    done = ris.send(placer_free(), patient=patient)
    assert len(done.created) == 1
    assert "derived Study Instance UID is in use" in done.warnings[0]
    assert len({e.procedure.study_instance_uid for e in [*ris.entries(HAYDN), *ris.entries(MOZART)]}) == 2


def placer_free():
    return an_order(placer_order_number=None, filler_order_number=None)


def test_an_accession_number_is_not_reused_while_a_trace_of_it_is_younger(ris):
    ris.send(placer_free())
    ris.send(a_status(A.COMPLETE, "SC", placer_order_number=None, filler_order_number=None))
    ris.clock.advance(days=89)
    refused(ris, DuplicateKey, placer_free(), patient=MOZART)


def test_a_late_correction_of_an_old_order_is_not_a_new_order(ris):
    ris.send()
    ris.send(a_status(A.COMPLETE, "SC"))
    ris.clock.advance(days=400)
    done = ris.send(an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "NEW^NAME"}))
    assert done.created == ()
    assert len(ris.orders()) == 1


# ---- groups --------------------------------------------------------------------------------------------


def test_groups_of_one_procedure_become_its_steps(ris):
    """IHE RAD-4: all groups of a message are steps of one requested procedure."""
    groups = [an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step(f"S{n}"))) for n in (1, 2, 3)]
    done = ris.send(*groups)
    assert len(done.created) == 1
    assert ris.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED, "S3": SCHEDULED}
    assert len({entry.procedure.id for entry in ris.entries()}) == 1


def test_groups_without_step_ids_are_steps_of_their_own_and_stay_so(ris):
    groups = [an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step(None))) for _ in range(2)]
    ris.send(*groups)
    assert ris.statuses() == {"RP1": SCHEDULED, "RP1.2": SCHEDULED}
    ris.send(*groups)
    assert ris.statuses() == {"RP1": SCHEDULED, "RP1.2": SCHEDULED}


def test_another_procedure_id_under_one_accession_is_a_second_procedure_with_its_own_study(ris):
    ris.send()
    ris.send(
        an_order(
            A.PLACE,
            "NW",
            a_procedure("RP2", None, a_step("S2")),
            placer_order_number=None,
            filler_order_number=None,
        )
    )
    assert len(ris.orders()) == 1
    assert len({entry.procedure.study_instance_uid for entry in ris.entries()}) == 2


def test_later_groups_do_not_take_the_orders_number_away(ris):
    first = an_order()
    second = an_order(
        A.PLACE,
        "NW",
        a_procedure("RP1", None, a_step("S2")),
        filler_order_number=None,
        placer_order_number=EntityIdentifier("PL1-2", "RIS"),
    )
    ris.send(first, second)
    assert ris.entries()[0].order.placer_order_number == EntityIdentifier("PL1", "RIS")


def test_one_bad_group_undoes_the_whole_message(ris):
    ris.send()
    ris.happen(StepEvent.MPPS_IN_PROGRESS)
    new = an_order(
        A.PLACE,
        "NW",
        a_procedure("RP2", None, a_step("S2")),
        accession_number="A2",
        placer_order_number=None,
        filler_order_number=None,
    )
    refused(ris, RecordLocked, new, a_status(A.CANCEL, "CA"))


def test_a_complete_list_cancels_what_it_leaves_out_and_brings_back_what_it_has_again(two_steps):
    one = an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1")), steps_are_complete=True)
    two_steps.send(one)
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": CANCELED}
    both = an_order(
        A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1"), a_step("S2")), steps_are_complete=True
    )
    two_steps.send(both)
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED}


def test_a_procedure_named_without_steps_keeps_those_it_has(ris):
    bare = replace(a_procedure("RP2"), steps=())
    listed = an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step("S1")), bare, steps_are_complete=True)
    ris.send(listed)
    ris.send(listed)
    assert ris.statuses() == {"S1": SCHEDULED, "RP2": SCHEDULED}
    ris.send(a_status(A.CANCEL, "CA"))
    ris.send(listed)
    assert ris.statuses() == {"S1": SCHEDULED, "RP2": SCHEDULED}


def test_an_empty_list_is_no_list(two_steps):
    two_steps.send(replace(an_order(A.CHANGE, "XO"), procedures=(), steps_are_complete=True))
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED}


def test_a_complete_list_leaves_a_step_in_progress_alone(two_steps):
    two_steps.happen(StepEvent.MPPS_IN_PROGRESS, "S2")
    one = an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1")), steps_are_complete=True)
    done = two_steps.send(one)
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": "STARTED"}
    assert any("in progress" in warning for warning in done.warnings)


def test_a_list_that_is_not_complete_cancels_nothing(two_steps):
    two_steps.send(an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1"))))
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED}


def test_a_complete_list_in_several_groups_is_taken_together(two_steps):
    groups = [
        an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step(f"S{n}")), steps_are_complete=True)
        for n in (1, 2)
    ]
    two_steps.send(*groups)
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED}


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


# ---- order of events -----------------------------------------------------------------------------------


def test_within_one_source_what_arrives_last_counts(ris):
    early = ris.clock.now()
    ris.send()
    ris.send(an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "LAST^ARRIVED"}), sent_at=early)
    assert ris.entry().order.attributes["RequestingPhysician"] == "LAST^ARRIVED"


def test_an_older_event_of_a_source_that_tells_the_time_is_for_a_person(ris):
    ris.policy = replace(POLICY, timestamp_sources=frozenset({"RIS"}))
    early = ris.clock.now()
    ris.send()
    refused(
        ris, Conflict, an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "OLD^NEWS"}), sent_at=early
    )


def test_an_older_event_of_another_source_is_for_a_person(ris):
    early = ris.clock.now()
    ris.send()
    ris.application = "SCHEDULER"
    refused(ris, Conflict, an_order(A.CHANGE, "XO"), sent_at=early)
    ris.clock.advance(seconds=5)
    ris.send(an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "NEWER^NEWS"}))
    assert ris.entry().order.attributes["RequestingPhysician"] == "NEWER^NEWS"


SCRIPT = [
    an_order(),
    an_order(
        A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1", ScheduledProcedureStepStartTime="100000"))
    ),
    an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1", ScheduledStationAETitle=("CT2",)))),
    an_order(
        A.CHANGE,
        "XO",
        a_procedure("RP1", None, a_step("S1", Modality="MR", ScheduledStationAETitle=("MR1",))),
    ),
    an_order(
        A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1", ScheduledProcedureStepStartTime="110000"))
    ),
    an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "LAST^WORD"}),
]


def played(ris, script):
    """Send (minute, order) pairs as they come; what is refused is kept for a person and changes nothing."""
    begin = ris.clock.now()
    ris.clock.advance(hours=1)
    for minute, order in script:
        with contextlib.suppress(Conflict):
            ris.send(order, sent_at=begin + timedelta(minutes=minute))
    step = ris.entry().step
    return step.modality, step.station_ae_titles, step.start_time, ris.entry().order.attributes


@pytest.mark.parametrize("seed", range(12))
def test_messages_of_a_source_that_tells_the_time_end_alike_in_any_order_and_number(ris, seed):
    """In whatever order and however often they arrive, the newest message has the last word."""
    ris.policy = replace(POLICY, timestamp_sources=frozenset({"RIS"}))
    dice = random.Random(seed)
    script = list(enumerate(SCRIPT)) * dice.choice([1, 2])
    dice.shuffle(script)
    last = ("CT", ("CT1",), "093000", {"RequestingPhysician": "LAST^WORD"})
    assert played(ris, script) == last


@pytest.mark.parametrize("seed", range(12))
def test_a_cancellation_is_final_in_any_order_of_a_source_that_tells_the_time(ris, seed):
    ris.policy = replace(POLICY, timestamp_sources=frozenset({"RIS"}))
    script = [*enumerate(SCRIPT), (9, a_status(A.CANCEL, "CA"))]
    random.Random(seed).shuffle(script)
    begin = ris.clock.now()
    ris.clock.advance(hours=1)
    for minute, order in script:
        with contextlib.suppress(Conflict):
            ris.send(order, sent_at=begin + timedelta(minutes=minute))
    assert [order.status for order in ris.orders()] == [OrderStatus.CANCELED]
    assert not any(row["offered"] for row in ris.snapshot()["scheduled_procedure_step"])


@pytest.mark.parametrize(
    ("arrival", "after"),
    [
        (("place", "cancel", "again"), SCHEDULED),
        (("place", "again", "cancel"), CANCELED),
        (("cancel", "place", "again"), SCHEDULED),
        (("cancel", "again", "place"), SCHEDULED),
        (("again", "cancel", "place"), CANCELED),
        (("again", "place", "cancel"), CANCELED),
    ],
)
def test_what_each_order_of_arrival_leads_to(ris, arrival, after):
    """One source, arrival counts, but a placement written before the cancellation does not undo it."""
    begin = ris.clock.now()
    ris.clock.advance(hours=1)
    written = {"place": (0, an_order()), "cancel": (1, a_status(A.CANCEL, "CA")), "again": (2, an_order())}
    for name in arrival:
        minute, order = written[name]
        ris.send(order, sent_at=begin + timedelta(minutes=minute))
    assert ris.statuses() == {"S1": after}
