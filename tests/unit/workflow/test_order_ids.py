"""The ids of studies, procedures and steps: taken, made up, cut short or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.domain.orders import OrderAction as A
from broker.domain.orders import PatientDetails, PatientIdentifier
from broker.domain.steps import StepEvent
from broker.domain.uids import derive_study_instance_uid, surrogate_id
from broker.errors import DuplicateKey, InvalidValue, MissingValue, RecordLocked
from broker.workflow.order_policy import MissingStudyUid
from tests.ris import MOZART, NAMESPACE, POLICY, SCHEDULED, a_procedure, a_step, an_order
from tests.unit.workflow.order_desk import refused


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
