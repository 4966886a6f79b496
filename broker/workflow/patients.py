"""Update and merge patients: what an ADT message does to a person and to their worklist entries (IHE RAD-12)."""

from __future__ import annotations

from dataclasses import replace

from broker.domain.events import EventName, Subject
from broker.domain.identity import same_identifier
from broker.domain.orders import MergePatients, Patient, PatientIdentifier, UpdatePatient
from broker.domain.steps import StepEvent, StepStatus, advance
from broker.errors import Conflict, DuplicateKey, MissingValue
from broker.workflow.clock import Clock
from broker.workflow.message_work import MessageWork
from broker.workflow.order_policy import OrderPolicy, PatientsMerged, PatientUpdated
from broker.workflow.orders_port import StepEncoder
from broker.workflow.patient_records import (
    find_patient,
    primary_identifier,
    refresh_entries,
    upsert_patient,
)
from broker.workflow.unit_of_work import UnitOfWork

_PERSON_EVENTS = frozenset({"A28", "A31"})
"""They speak of the person, whatever visit segment comes along (HL7 v2.5.1 3.3.28, 3.3.31)."""

_VISIT = frozenset(
    {
        "AdmissionID",
        "IssuerOfAdmissionIDSequence",
        "RouteOfAdmissions",
        "CurrentPatientLocation",
        "AdmittingDate",
        "AdmittingTime",
        "ReferringPhysicianName",
    }
)


def update_patient(
    request: UpdatePatient, uow: UnitOfWork, *, clock: Clock, encoder: StepEncoder, policy: OrderPolicy
) -> PatientUpdated:
    """Create the patient or bring it up to date, with every worklist entry not yet final; the caller commits."""
    work = MessageWork(uow, clock.now(), encoder, policy, request.source)
    primary = primary_identifier(request.patient)
    uow.lock(f"patient:{primary.value}")
    found = find_patient(work, request.patient)
    skip = _VISIT if request.event in _PERSON_EVENTS else frozenset()
    done = upsert_patient(work, request.patient, found, skip=skip)
    steps: tuple[int, ...] = ()
    if done.changed:
        steps = refresh_entries(work, done.patient, open_only=True)
    if request.event in policy.arrival_events:
        steps = tuple(dict.fromkeys((*steps, *_arrive(work, done.patient, clock))))
    return PatientUpdated(done.patient.id, done.created, done.changed, steps, tuple(work.warnings))


def _arrive(work: MessageWork, patient: Patient, clock: Clock) -> list[int]:
    """Move today's scheduled steps of a patient to ARRIVED: the hospital's day, not UTC's."""
    today = clock.local_now().strftime("%Y%m%d")
    arrived: list[int] = []
    for entry in work.uow.steps.entries_of_patient(patient.id, open_only=True):
        step = entry.step
        if step.status is not StepStatus.SCHEDULED or step.start_date != today:
            continue
        status = advance(step.status, StepEvent.PATIENT_ARRIVED)
        work.save_step(replace(entry, step=replace(step, status=status)))
        work.record(
            EventName.STEP_STATUS_CHANGED,
            Subject.STEP,
            step.id,
            order=entry.order.id,
            study_instance_uid=entry.procedure.study_instance_uid,
            before=step.status.value,
            after=status.value,
            because=StepEvent.PATIENT_ARRIVED.value,
        )
        arrived.append(step.id)
    return arrived


def merge_patients(
    request: MergePatients, uow: UnitOfWork, *, clock: Clock, encoder: StepEncoder, policy: OrderPolicy
) -> PatientsMerged:
    """Make one patient part of another, with all orders and steps; the caller commits.

    Said twice it changes nothing. Raises DuplicateKey for a patient merged with itself, Conflict for a merge
    turned round.
    """
    work = MessageWork(uow, clock.now(), encoder, policy, request.source)
    wanted, gone = primary_identifier(request.survivor), request.absorbed
    if not gone.value.strip():
        raise MissingValue("The identifier to be merged away is missing.", field="PatientID")
    if same_identifier(wanted, gone):
        raise DuplicateKey("A patient cannot be merged with itself.", field="PatientID")
    uow.lock(*sorted({f"patient:{wanted.value}", f"patient:{gone.value}"}))
    found = find_patient(work, request.survivor)
    absorbed = uow.patients.find(gone)
    if found is not None and absorbed is not None and found.id == absorbed.id:
        _check_direction(found, wanted, gone)
        return PatientsMerged(found.id, found.id, already_merged=True, warnings=tuple(work.warnings))
    survivor = upsert_patient(work, request.survivor, found).patient
    if absorbed is None:
        stub = Patient(
            id=0,
            patient_id=gone.value,
            issuer=gone.issuer,
            name="",
            birth_date=None,
            sex=None,
            merged_into=survivor.id,
        )
        stub = uow.patients.add(stub, now=work.now)
        work.warn(
            "the patient to be merged away was not known; later messages under that identifier follow the merge"
        )
        _tell(work, survivor, stub.id, [])
        return PatientsMerged(survivor.id, stub.id, warnings=tuple(work.warnings))
    moved = uow.patients.merge(absorbed=absorbed.id, survivor=survivor.id, now=work.now)
    # Matching copies and encoded elements repeat the patient's identifier, also those of finished steps.
    refresh_entries(work, survivor, open_only=False)
    _tell(work, survivor, absorbed.id, moved)
    return PatientsMerged(survivor.id, absorbed.id, tuple(moved), warnings=tuple(work.warnings))


def _check_direction(both: Patient, wanted: PatientIdentifier, gone: PatientIdentifier) -> None:
    """Refuse to turn a merge round: the identifier to disappear is the one that survived before."""
    own = PatientIdentifier(both.patient_id, both.issuer)
    if same_identifier(own, gone) and not same_identifier(own, wanted):
        raise Conflict("These patients were merged the other way round.", field="PatientID")


def _tell(work: MessageWork, survivor: Patient, absorbed: int, moved: list[int]) -> None:
    """Record what moved, so that a person can see and undo it."""
    subjects = [(Subject.PATIENT, survivor.id, None), (Subject.PATIENT, absorbed, None)]
    for subject, subject_id, order in [*subjects, *((Subject.ORDER, order, order) for order in moved)]:
        work.record(
            EventName.PATIENT_MERGED,
            subject,
            subject_id,
            order=order,
            survivor=survivor.id,
            absorbed=absorbed,
            moved_orders=[str(order) for order in moved],
        )
