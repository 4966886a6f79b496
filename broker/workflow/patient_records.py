"""Stored patients: found by what a message calls them, and brought up to date with what it says."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from broker.domain.attributes import apply_changes, change_text, merge_sources, shown
from broker.domain.events import EventName, Subject
from broker.domain.identity import PersonEvidence, compare_persons, same_identifier, suspects_overlay
from broker.domain.orders import AttributeValue, Patient, PatientDetails, PatientIdentifier
from broker.errors import InvalidValue, MissingValue
from broker.workflow.message_work import MessageWork

MAX_PATIENT_ID_CHARACTERS = 64
"""PS3.5 6.2, LO."""

_FIELDS = {"PatientName": "name", "PatientBirthDate": "birth_date", "PatientSex": "sex"}
_KEYS = frozenset({"PatientID", "IssuerOfPatientID"})

Skipped = Collection[str]


@dataclass(frozen=True, slots=True)
class Upserted:
    """A patient after a message spoke of it."""

    patient: Patient
    created: bool
    changed: tuple[str, ...] = ()
    """Keywords."""


def primary_identifier(details: PatientDetails) -> PatientIdentifier:
    """Answer the identifier that names the patient; raises MissingValue or InvalidValue."""
    if not details.identifiers or not details.identifiers[0].value.strip():
        raise MissingValue("A patient identifier is missing.", field="PatientID")
    primary = details.identifiers[0]
    if len(primary.value) > MAX_PATIENT_ID_CHARACTERS:
        # Never cut: the shortened identifier is somebody else's.
        raise InvalidValue("The patient identifier is too long for DICOM.", field="PatientID")
    return primary


def find_patient(work: MessageWork, details: PatientDetails) -> Patient | None:
    """Find the patient a message means: by the primary identifier, else by another one that may be trusted."""
    primary = primary_identifier(details)
    found = work.uow.patients.find(primary)
    if found is None:
        return next((known for known in _known_otherwise(work, details, primary)), None)
    if not _is_known_as(found, primary):
        work.warn("the patient was merged: the message was applied to the survivor")
    return found


def _known_otherwise(
    work: MessageWork, details: PatientDetails, primary: PatientIdentifier
) -> Iterator[Patient]:
    """Yield patients known under a further identifier.

    Without an issuer such a number (a case, an account) proves nothing, and one of the primary's own issuer is
    another record there: only a merge may say that they are one. Demographics must not contradict.
    """
    said = {key: value for key in _FIELDS if isinstance(value := details.changes.get(key), str)}
    spoken = PersonEvidence(
        details.identifiers[1:], said.get("PatientName"), said.get("PatientBirthDate"), said.get("PatientSex")
    )
    for other in details.identifiers[1:]:
        if not other.issuer or other.issuer == primary.issuer:
            continue
        known = work.uow.patients.find(other)
        if known is None:
            work.strangers.add(other)
        elif not compare_persons(spoken, PersonEvidence.of(known)).contradicted:
            yield known


def _is_known_as(patient: Patient, identifier: PatientIdentifier) -> bool:
    own = (PatientIdentifier(patient.patient_id, patient.issuer), *patient.other_ids)
    return any(same_identifier(identifier, known) for known in own)


def upsert_patient(
    work: MessageWork, details: PatientDetails, found: Patient | None, *, skip: Skipped = ()
) -> Upserted:
    """Create the patient or bring it up to date; nothing is written when nothing is new."""
    changes = {key: value for key, value in details.changes.items() if key not in _KEYS and key not in skip}
    if found is None:
        return Upserted(_create(work, details, changes), created=True)
    attributes, changed = apply_changes(
        found.attributes, {key: value for key, value in changes.items() if key not in _FIELDS}
    )
    updated = replace(
        found,
        attributes=attributes,
        name=change_text(found.name, changes, "PatientName") or "",
        birth_date=change_text(found.birth_date, changes, "PatientBirthDate"),
        sex=change_text(found.sex, changes, "PatientSex"),
        other_ids=(*found.other_ids, *_new_identifiers(work, details, found)),
    )
    if (
        not found.issuer
        and (issuer := primary_identifier(details).issuer)
        and updated.patient_id == details.identifiers[0].value
    ):
        updated = replace(updated, issuer=issuer)
        changed.append("IssuerOfPatientID")
    changed += [
        key for key, name in _FIELDS.items() if (getattr(found, name) or "") != (getattr(updated, name) or "")
    ]
    if updated.other_ids != found.other_ids:
        changed.append("OtherPatientIDsSequence")
    if not changed:
        return Upserted(found, created=False)
    updated = replace(updated, sources=merge_sources(found.sources, details.sources, changed))
    work.uow.patients.save(updated, now=work.now)
    if suspects_overlay(found, changes):
        work.warn("family name, birth date and sex changed together: is this another patient?")
        work.record(
            EventName.PATIENT_OVERLAY_SUSPECTED,
            Subject.PATIENT,
            found.id,
            changed=_told(found, updated, changed),
        )
    work.record(
        EventName.PATIENT_UPDATED,
        Subject.PATIENT,
        found.id,
        changed=_told(found, updated, changed),
        sources=[f"{key}: {details.sources[key]}" for key in changed if key in details.sources],
    )
    return Upserted(updated, created=False, changed=tuple(changed))


def _create(work: MessageWork, details: PatientDetails, changes: dict[str, AttributeValue | None]) -> Patient:
    primary = primary_identifier(details)
    attributes, _ = apply_changes({}, {key: value for key, value in changes.items() if key not in _FIELDS})
    patient = work.uow.patients.add(
        Patient(
            id=0,
            patient_id=primary.value,
            issuer=primary.issuer,
            name=change_text(None, changes, "PatientName") or "",
            birth_date=change_text(None, changes, "PatientBirthDate"),
            sex=change_text(None, changes, "PatientSex"),
            other_ids=tuple(_new_identifiers(work, details, None)),
            attributes=attributes,
            sources=dict(details.sources),
        ),
        now=work.now,
    )
    work.record(EventName.PATIENT_CREATED, Subject.PATIENT, patient.id)
    return patient


def _new_identifiers(
    work: MessageWork, details: PatientDetails, found: Patient | None
) -> Sequence[PatientIdentifier]:
    """List identifiers the patient is not yet known by; one that is another patient's stays there."""
    fresh: list[PatientIdentifier] = []
    for position, identifier in enumerate(details.identifiers):
        if not identifier.value.strip() or (found is None and position == 0):
            continue
        if (found is not None and _is_known_as(found, identifier)) or identifier in fresh:
            continue
        owner = None if identifier in work.strangers else work.uow.patients.find(identifier)
        if owner is None:
            fresh.append(identifier)
        elif found is None or owner.id != found.id:
            work.warn("one of the patient's identifiers belongs to another patient and was not taken over")
    work.strangers.clear()
    return fresh


def _told(before: Patient, after: Patient, changed: Sequence[str]) -> list[str]:
    """Say what a value was and is; who may read events of patients is the reader's business."""
    told = []
    for key in changed:
        if key in _FIELDS:
            old, new = getattr(before, _FIELDS[key]), getattr(after, _FIELDS[key])
        else:
            old, new = before.attributes.get(key), after.attributes.get(key)
        told.append(f"{key}: {shown(old)} -> {shown(new)}")
    return told


def refresh_entries(work: MessageWork, patient: Patient, *, open_only: bool) -> tuple[int, ...]:
    """Write the patient's worklist entries again, with what is now true of the patient; answer their ids."""
    # A step is written whole: what a scanner reports of it in the meantime must not be undone.
    orders = work.uow.orders.of_patient(patient.id)
    if not orders:
        return ()
    work.uow.lock(*sorted(f"order:{order.id}" for order in orders))
    entries = work.uow.steps.entries_of_patient(patient.id, open_only=open_only)
    for entry in entries:
        work.save_step(replace(entry, patient=patient))
    return tuple(entry.step.id for entry in entries)
