"""Who is who: identifiers prove, names and birth dates only suggest, and reasons carry no patient data."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.identity import (
    Agreement,
    PersonEvidence,
    compare_persons,
    same_identifier,
    suspects_overlay,
)
from broker.domain.orders import Patient, PatientIdentifier
from broker.domain.uids import derive_study_instance_uid, short_id, surrogate_id
from broker.domain.values import UID

ANNA = PersonEvidence((PatientIdentifier("4711", "HOSP"),), "MÜLLER^ANNA^^^", "19700102", "F")


def test_one_identifier_of_one_issuer_is_the_same_person():
    other = PersonEvidence((PatientIdentifier("4711", "HOSP"),), "MULLER^ANNA", "19700102", "F")
    assert compare_persons(ANNA, other).agreement is Agreement.SAME


def test_a_shared_identifier_with_another_name_is_the_same_person_and_says_so():
    verdict = compare_persons(
        ANNA, PersonEvidence((PatientIdentifier("4711", "HOSP"),), "SCHMIDT^ANNA", "19710102")
    )
    assert verdict.agreement is Agreement.SAME
    assert verdict.reasons == ("an identifier is shared", "the names differ", "the birth dates differ")


def test_an_identifier_of_another_issuer_proves_nothing():
    other = PersonEvidence((PatientIdentifier("4711", "CLINIC"),), "SCHMIDT^EVA", "19800102")
    assert compare_persons(ANNA, other).agreement is Agreement.DIFFERENT


def test_a_secondary_identifier_counts():
    other = PersonEvidence((PatientIdentifier("99", "CLINIC"), PatientIdentifier("4711", "HOSP")))
    assert compare_persons(ANNA, other).agreement is Agreement.SAME


def test_twins_are_candidates_at_most():
    twin = PersonEvidence((PatientIdentifier("4712", "HOSP"),), "MUELLER^ANNA", "19700102")
    assert compare_persons(ANNA, twin).agreement is Agreement.DIFFERENT
    namesake = PersonEvidence((PatientIdentifier("4712", "HOSP"),), "Müller^Anna", "19700102")
    assert compare_persons(ANNA, namesake).agreement is Agreement.CANDIDATE


def test_a_name_without_a_birth_date_is_not_even_a_candidate():
    verdict = compare_persons(ANNA, PersonEvidence((), "MÜLLER^ANNA", None))
    assert verdict.agreement is Agreement.DIFFERENT
    assert "a birth date is missing" in verdict.reasons


def test_a_name_no_pn_can_hold_is_compared_as_text():
    broken = "A^B^C^D^E^F^G"
    one, other = PersonEvidence((), broken, "19700102"), PersonEvidence((), broken.lower(), "19700102")
    assert compare_persons(one, other).agreement is Agreement.CANDIDATE


def test_nothing_known_is_never_agreement():
    assert compare_persons(PersonEvidence(), PersonEvidence()).agreement is Agreement.DIFFERENT


@given(
    st.builds(
        PersonEvidence,
        st.tuples(st.builds(PatientIdentifier, st.text(max_size=4), st.sampled_from([None, "A", "B"]))),
        st.text(max_size=8),
        st.sampled_from([None, "19700101", "19700102"]),
    ),
    st.builds(
        PersonEvidence,
        st.tuples(st.builds(PatientIdentifier, st.text(max_size=4), st.sampled_from([None, "A", "B"]))),
        st.text(max_size=8),
        st.sampled_from([None, "19700101", "19700102"]),
    ),
)
def test_agreement_is_symmetric(one, other):
    assert compare_persons(one, other).agreement is compare_persons(other, one).agreement


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (PatientIdentifier("1", "A"), PatientIdentifier("1", "A"), True),
        (PatientIdentifier("1", "A"), PatientIdentifier("1", None), True),
        (PatientIdentifier("1", "A"), PatientIdentifier("1", "B"), False),
        (PatientIdentifier("1", "A", "1.2"), PatientIdentifier("1", "B", "1.2"), True),
        (PatientIdentifier("01", "A"), PatientIdentifier("1", "A"), False),
        (PatientIdentifier(" ", "A"), PatientIdentifier("", "A"), False),
    ],
)
def test_identifiers_are_compared_with_their_issuers(one, other, same):
    assert same_identifier(one, other) is same
    assert same_identifier(other, one) is same


PATIENT = Patient(1, "4711", "HOSP", "MÜLLER^ANNA", "19700102", "F")


@pytest.mark.parametrize(
    ("changes", "suspected"),
    [
        ({"PatientName": "BACH^JOHANN", "PatientBirthDate": "16850331", "PatientSex": "M"}, True),
        ({"PatientName": "BACH^ANNA", "PatientBirthDate": "19700102", "PatientSex": "F"}, False),
        ({"PatientName": "MULLER^JOHANN", "PatientBirthDate": "16850331", "PatientSex": "M"}, False),
        ({"PatientName": "BACH^JOHANN"}, False),
        ({"PatientName": None, "PatientBirthDate": None, "PatientSex": None}, False),
    ],
)
def test_an_overlay_is_suspected_only_when_everything_changes_at_once(changes, suspected):
    assert suspects_overlay(PATIENT, changes) is suspected


NAMESPACE = UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")


@given(st.text(max_size=20), st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_a_derived_study_uid_is_valid_and_always_the_same(issuer, accession, procedure):
    uid = derive_study_instance_uid(
        NAMESPACE, issuer=issuer, accession_number=accession, requested_procedure_id=procedure
    )
    assert uid is not None
    assert UID.is_valid(uid)
    assert len(uid) <= 44
    assert uid == derive_study_instance_uid(
        NAMESPACE, issuer=issuer, accession_number=accession, requested_procedure_id=procedure
    )


def test_nothing_to_derive_from_derives_nothing():
    assert (
        derive_study_instance_uid(NAMESPACE, issuer="H", accession_number=None, requested_procedure_id=None)
        is None
    )


def test_parts_of_a_derived_uid_do_not_run_into_each_other():
    uids = {
        derive_study_instance_uid(NAMESPACE, issuer=i, accession_number=a, requested_procedure_id=p)
        for i, a, p in (("A", "B", "C"), ("AB", "C", ""), ("A", "BC", ""), ("", "ABC", ""), ("", "", "ABC"))
    }
    assert len(uids) == 5


def test_the_derived_uid_is_pinned_because_stored_ones_must_stay_reachable():
    assert (
        derive_study_instance_uid(
            NAMESPACE, issuer="HOSP", accession_number="A1", requested_procedure_id="RP1"
        )
        == "2.25.94061563524064653737058496717712110377"
    )


@given(st.text(min_size=17, max_size=64))
def test_a_surrogate_fits_and_is_stable(value):
    own = short_id(value, issuer="HOSP")
    assert len(own) == 16
    assert own.startswith("X")
    assert own.isalnum()
    assert own == surrogate_id(value, issuer="HOSP")


def test_what_fits_is_kept_and_long_values_with_one_beginning_stay_apart():
    assert short_id("RP-1") == "RP-1"
    assert short_id("1234567890123456") == "1234567890123456"
    assert short_id("12345678901234567") != short_id("12345678901234568")
    assert surrogate_id("X", issuer="A") != surrogate_id("X", issuer="B")
