"""Is this the same person? An answer always comes with its reasons, and a name alone never proves anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from broker.domain.orders import Changes, Patient, PatientIdentifier
from broker.domain.values import PersonName, fold_name
from broker.errors import InvalidValue


class Agreement(Enum):
    """How two descriptions of a person relate."""

    SAME = "same"
    """They share an identifier of one issuer."""
    CANDIDATE = "candidate"
    """Name and birth date agree, identifiers do not: shown to a person, never acted on (twins, newborns)."""
    DIFFERENT = "different"
    """Something both know contradicts, or nothing speaks for it."""


@dataclass(frozen=True, slots=True)
class PersonEvidence:
    """What one source knows of a person; the first identifier is the primary one."""

    identifiers: tuple[PatientIdentifier, ...] = ()
    name: str | None = None
    birth_date: str | None = None
    sex: str | None = None

    @classmethod
    def of(cls, patient: Patient) -> PersonEvidence:
        """Take the evidence from a stored patient."""
        primary = PatientIdentifier(patient.patient_id, patient.issuer)
        return cls((primary, *patient.other_ids), patient.name, patient.birth_date, patient.sex)


@dataclass(frozen=True, slots=True)
class IdentityVerdict:
    """An agreement and what led to it, in sentences without patient data."""

    agreement: Agreement
    reasons: tuple[str, ...]
    contradicted: bool = False
    """Name or birth date are known on both sides and differ."""


def same_identifier(one: PatientIdentifier, other: PatientIdentifier) -> bool:
    """Tell whether two identifiers are one; an issuer only one side names does not contradict."""
    if one.value.strip() != other.value.strip() or not one.value.strip():
        return False
    if one.universal_id and other.universal_id and one.universal_id == other.universal_id:
        return True
    return not one.issuer or not other.issuer or one.issuer == other.issuer


def same_person_name(one: str | None, other: str | None) -> bool | None:
    """Tell whether two PN values agree in family and given name; None when one of them says nothing."""
    if not one or not other:
        return None
    try:
        return PersonName.parse(one).is_same_as(PersonName.parse(other))
    except InvalidValue:
        # A name no PN can hold still came from a scanner: compare it as text.
        return fold_name(one) == fold_name(other)


def compare_persons(one: PersonEvidence, other: PersonEvidence) -> IdentityVerdict:
    """Weigh what two sources know of a person (IHE RAD TF-2x, patient agreement)."""
    reasons: list[str] = []
    shared = any(same_identifier(a, b) for a in one.identifiers for b in other.identifiers)
    name = same_person_name(one.name, other.name)
    born = None if not one.birth_date or not other.birth_date else one.birth_date == other.birth_date
    contradicted = name is False or born is False
    if shared:
        reasons.append("an identifier is shared")
        reasons.extend(_contradictions(name, born))
        return IdentityVerdict(Agreement.SAME, tuple(reasons), contradicted)
    reasons.append(
        "no identifier is shared" if one.identifiers and other.identifiers else "an identifier is missing"
    )
    if name and born:
        reasons.append("family name, given name and birth date agree")
        return IdentityVerdict(Agreement.CANDIDATE, tuple(reasons))
    reasons.extend(_contradictions(name, born))
    if name is None:
        reasons.append("a name is missing")
    if born is None:
        reasons.append("a birth date is missing")
    return IdentityVerdict(Agreement.DIFFERENT, tuple(reasons), contradicted)


def _contradictions(name: bool | None, born: bool | None) -> Sequence[str]:
    """List what both sides know and tell differently."""
    found = []
    if name is False:
        found.append("the names differ")
    if born is False:
        found.append("the birth dates differ")
    return found


def suspects_overlay(before: Patient, changes: Changes) -> bool:
    """Tell whether an update looks like one patient written over another.

    Family name, birth date and sex of a known identifier changing together is hardly a correction.
    """
    name, born, sex = (changes.get(key) for key in ("PatientName", "PatientBirthDate", "PatientSex"))
    if not (isinstance(name, str) and isinstance(born, str) and isinstance(sex, str)):
        return False
    if not (before.name and before.birth_date and before.sex):
        return False
    families = [fold_name(value.split("^", 1)[0]) for value in (before.name, name)]
    return families[0] != families[1] and before.birth_date != born and before.sex != sex
