"""What patient messages do to people and to their worklist entries, on a real database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.domain.events import EventName
from broker.domain.orders import EntityIdentifier, OrderAction, PatientDetails, PatientIdentifier
from broker.domain.steps import StepEvent
from broker.errors import Conflict, DuplicateKey, MissingValue
from tests.ris import HAYDN, MOZART, POLICY, SCHEDULED, a_procedure, a_status, a_step, an_order


def person(value, name=None, issuer="HOSP", **changes):
    return PatientDetails(
        (PatientIdentifier(value, issuer),), {"PatientName": name, **changes} if name else changes
    )


def second_order(patient, ris):
    order = an_order(
        OrderAction.PLACE,
        "NW",
        a_procedure("RP2", None, a_step("S2")),
        accession_number="A2",
        placer_order_number=EntityIdentifier("PL2", "RIS"),
        filler_order_number=None,
    )
    return ris.send(order, patient=patient)


def refused(ris, kind, act):
    before = ris.snapshot()
    with pytest.raises(kind) as problem:
        act()
    assert ris.snapshot() == before
    return problem.value


# ---- update --------------------------------------------------------------------------------------------


def test_an_update_reaches_every_entry_that_is_not_final(ris):
    ris.send(
        an_order(OrderAction.PLACE, "NW", a_procedure("RP1", None, a_step("S1"), a_step("S2"), a_step("S3")))
    )
    ris.happen(StepEvent.MPPS_IN_PROGRESS, "S2")
    ris.happen(StepEvent.MPPS_COMPLETED, "S3")
    done = ris.update(person("P1", "HAYDN^FRANZ JOSEPH"))
    assert done.changed == ("PatientName",)
    assert [text.split("|")[0] for text in ris.elements()] == ["HAYDN^FRANZ JOSEPH"] * 2 + ["HAYDN^JOSEPH"]
    (event,) = ris.events(EventName.PATIENT_UPDATED)
    assert event.details["changed"] == ["PatientName: HAYDN^JOSEPH -> HAYDN^FRANZ JOSEPH"]


def test_an_update_said_twice_changes_nothing_the_second_time(ris):
    ris.send()
    ris.update(person("P1", "NEW^NAME"))
    before = ris.snapshot()
    assert ris.update(person("P1", "NEW^NAME")).changed == ()
    assert ris.snapshot() == before


def test_an_update_of_an_unknown_patient_creates_the_patient(ris):
    assert ris.update(person("P9", "NEW^NAME")).created
    with ris.units() as uow:
        assert uow.patients.find(PatientIdentifier("P9", "HOSP")).name == "NEW^NAME"


def test_null_clears_a_demographic_and_absence_keeps_it(ris):
    ris.send()
    ris.update(PatientDetails(HAYDN.identifiers, {"PatientBirthDate": None, "PatientWeight": "80"}))
    patient = ris.entry().patient
    assert (patient.birth_date, patient.sex, patient.name) == (None, "M", "HAYDN^JOSEPH")
    assert patient.attributes == {"PatientWeight": "80"}


def test_a_cleared_name_takes_the_entry_off_the_worklist_and_a_new_one_puts_it_back(ris):
    ris.send()
    ris.update(PatientDetails(HAYDN.identifiers, {"PatientName": None}))
    assert ris.entry().step.missing == ("PatientName",)
    ris.update(person("P1", "HAYDN^JOSEPH"))
    assert ris.entry().step.missing == ()


def test_a_person_event_does_not_change_the_visit(ris):
    ris.send()
    ris.update(person("P1", CurrentPatientLocation="ICU"), "A08")
    ris.update(person("P1", CurrentPatientLocation="WARD", PatientWeight="80"), "A31")
    assert ris.entry().patient.attributes == {"CurrentPatientLocation": "ICU", "PatientWeight": "80"}


def test_one_patient_written_over_another_is_suspected(ris):
    ris.send()
    done = ris.update(person("P1", "MOZART^NANNERL", PatientBirthDate="17510730", PatientSex="F"))
    assert "another patient" in done.warnings[0]
    assert len(ris.events(EventName.PATIENT_OVERLAY_SUSPECTED)) == 1


def test_a_married_name_is_no_overlay(ris):
    ris.send()
    assert ris.update(person("P1", "KELLER^JOSEPH")).warnings == ()
    assert ris.events(EventName.PATIENT_OVERLAY_SUSPECTED) == []


def test_further_identifiers_find_the_patient_later(ris):
    both = PatientDetails((PatientIdentifier("P1", "HOSP"), PatientIdentifier("X7", "CLINIC")), HAYDN.changes)
    ris.send(patient=both)
    done = ris.update(person("X7", "HAYDN^F J", issuer="CLINIC"))
    assert not done.created
    assert ris.entry().patient.name == "HAYDN^F J"


def test_an_identifier_of_another_patient_is_not_taken_over(ris):
    ris.update(MOZART)
    both = PatientDetails((PatientIdentifier("P1", "HOSP"), PatientIdentifier("P2", "HOSP")), HAYDN.changes)
    done = ris.send(patient=both)
    assert any("belongs to another patient" in warning for warning in done.warnings)
    with ris.units() as uow:
        assert uow.patients.find(PatientIdentifier("P2", "HOSP")).name == "MOZART^NANNERL"


def test_a_patient_known_only_under_another_issuer_is_found_unless_name_or_birth_date_contradict(ris):
    ris.send(patient=person("X7", "HAYDN^JOSEPH", issuer="CLINIC", PatientBirthDate="17320331"))
    ids = (PatientIdentifier("P1", "HOSP"), PatientIdentifier("X7", "CLINIC"))
    ris.send(patient=PatientDetails(ids, {"PatientName": "HAYDN^JOSEPH", "PatientBirthDate": "17320331"}))
    assert ris.entry(HAYDN).patient.patient_id == "X7"
    ids = (PatientIdentifier("P5", "HOSP"), PatientIdentifier("X7", "CLINIC"))
    done = ris.update(PatientDetails(ids, {"PatientName": "MOZART^NANNERL"}))
    assert done.created
    assert any("belongs to another patient" in warning for warning in done.warnings)


def test_an_arrival_marks_todays_steps_and_no_others(ris):
    ris.policy = replace(POLICY, arrival_events=frozenset({"A10"}))
    tomorrow = a_step("S2", ScheduledProcedureStepStartDate="20261122")
    ris.send(an_order(OrderAction.PLACE, "NW", a_procedure("RP1", None, a_step("S1"), tomorrow)))
    ris.update(person("P1"), "A10")
    assert ris.statuses() == {"S1": "ARRIVED", "S2": SCHEDULED}
    before = ris.snapshot()
    ris.update(person("P1"), "A10")
    assert ris.snapshot() == before


# ---- merge ---------------------------------------------------------------------------------------------


def test_a_merge_moves_orders_and_rewrites_their_entries(ris):
    ris.send(patient=HAYDN)
    second_order(MOZART, ris)
    done = ris.merge(HAYDN, PatientIdentifier("P2", "HOSP"))
    assert len(done.moved_orders) == 1
    assert ris.statuses(HAYDN) == {"S1": SCHEDULED, "S2": SCHEDULED}
    assert all(text.startswith("HAYDN^JOSEPH|P1|") for text in ris.elements())
    moved = [event for event in ris.events(EventName.PATIENT_MERGED) if event.subject == "order"]
    assert [event.order for event in moved] == list(done.moved_orders)
    assert moved[0].details["absorbed"] == done.absorbed


def test_a_merge_rewrites_finished_entries_too(ris):
    second_order(MOZART, ris)
    ris.happen(StepEvent.MPPS_COMPLETED, "S2", MOZART)
    ris.merge(HAYDN, PatientIdentifier("P2", "HOSP"))
    assert ris.elements()[0].startswith("HAYDN^JOSEPH|P1|")


def test_a_merge_said_twice_changes_nothing_the_second_time(ris):
    ris.send()
    ris.update(MOZART)
    ris.merge(HAYDN, PatientIdentifier("P2", "HOSP"))
    before = ris.snapshot()
    assert ris.merge(HAYDN, PatientIdentifier("P2", "HOSP")).already_merged
    assert ris.snapshot() == before


def test_a_chain_of_merges_ends_at_the_last_survivor(ris):
    for number in ("P1", "P2", "P3"):
        ris.update(person(number, f"NAME^{number}"))
    ris.merge(person("P2"), PatientIdentifier("P1", "HOSP"))
    ris.merge(person("P3"), PatientIdentifier("P2", "HOSP"))
    done = ris.send(patient=person("P1"))
    assert any("survivor" in warning for warning in done.warnings)
    assert ris.entry(person("P3")).patient.name == "NAME^P3"


def test_a_merge_into_a_patient_merged_away_goes_to_the_survivor(ris):
    for number in ("P1", "P2", "P3"):
        ris.update(person(number, f"NAME^{number}"))
    ris.merge(person("P2"), PatientIdentifier("P1", "HOSP"))
    ris.send(patient=person("P3"))
    ris.merge(person("P1"), PatientIdentifier("P3", "HOSP"))
    assert ris.entry(person("P2")).patient.patient_id == "P2"


def test_a_patient_is_not_merged_with_itself(ris):
    ris.send()
    problem = refused(ris, DuplicateKey, lambda: ris.merge(HAYDN, PatientIdentifier("P1", "HOSP")))
    assert problem.hl7_condition == "205"


def test_a_merge_is_not_turned_round(ris):
    ris.send()
    ris.update(MOZART)
    ris.merge(HAYDN, PatientIdentifier("P2", "HOSP"))
    refused(ris, Conflict, lambda: ris.merge(MOZART, PatientIdentifier("P1", "HOSP")))


def test_a_merge_needs_both_identifiers(ris):
    refused(ris, MissingValue, lambda: ris.merge(HAYDN, PatientIdentifier("", "HOSP")))
    refused(ris, MissingValue, lambda: ris.merge(PatientDetails(()), PatientIdentifier("P2", "HOSP")))


def test_an_unknown_survivor_is_created(ris):
    second_order(MOZART, ris)
    ris.merge(HAYDN, PatientIdentifier("P2", "HOSP"))
    assert ris.entry(HAYDN).patient.name == "HAYDN^JOSEPH"


def test_later_messages_of_an_unknown_absorbed_patient_follow_the_merge(ris):
    done = ris.merge(HAYDN, PatientIdentifier("P7", "HOSP"))
    assert "not known" in done.warnings[0]
    ris.send(patient=person("P7"))
    assert ris.entry(HAYDN).patient.patient_id == "P1"


def test_an_order_of_the_absorbed_patient_is_the_survivors_afterwards(ris):
    second_order(MOZART, ris)
    ris.merge(HAYDN, PatientIdentifier("P2", "HOSP"))
    cancel = a_status(
        OrderAction.CANCEL,
        "CA",
        placer_order_number=EntityIdentifier("PL2", "RIS"),
        filler_order_number=None,
        accession_number=None,
    )
    ris.send(cancel, patient=HAYDN)
    assert ris.statuses() == {"S2": "CANCELED"}
