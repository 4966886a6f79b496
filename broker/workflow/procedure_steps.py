"""Takes what modalities report of performed procedure steps (RAD-6, RAD-7; PS3.4 F.7).

The scheduled steps follow, the order rolls up, and the message for the RIS is written as a delivery: all in the
caller's one transaction, which is committed before the modality hears of success.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.domain.identity import (
    Agreement,
    PersonEvidence,
    compare_persons,
    same_person_name,
)
from broker.domain.orders import PatientIdentifier, WorklistEntry
from broker.domain.steps import (
    FINAL_STEPS,
    OrderStatus,
    PerformedStatus,
    StepEvent,
    StepStatus,
    advance,
    advance_performed,
    roll_up,
)
from broker.errors import IllegalTransition, NotFound
from broker.workflow.clock import Clock
from broker.workflow.completion import release_complete_series
from broker.workflow.deliveries_port import Delivery
from broker.workflow.orders_port import StepEncoder
from broker.workflow.performed_port import PerformedStep, StatusMessages
from broker.workflow.unit_of_work import UnitOfWork
from broker.workflow.wake_ups import Task, WakeUp

WRONG_ENTRY = "110514"
"""Incorrect worklist entry selected (PS3.16 CID 9300)."""
EQUIPMENT_FAILURE = "110501"
_RESTORING_REASONS = frozenset({WRONG_ENTRY, EQUIPMENT_FAILURE})


@dataclass(frozen=True, slots=True)
class PerformedItem:
    """What one item of Scheduled Step Attributes Sequence (0040,0270) names."""

    study_instance_uid: str | None = None
    accession_number: str | None = None
    requested_procedure_id: str | None = None
    scheduled_procedure_step_id: str | None = None

    @property
    def is_scheduled(self) -> bool:
        """Tell whether the modality took it from a worklist."""
        return bool(self.scheduled_procedure_step_id)


@dataclass(frozen=True, slots=True)
class PerformedState:
    """A performed step as its merged data set says it is."""

    status: PerformedStatus
    data_set: bytes
    """Explicit VR Little Endian."""
    items: tuple[PerformedItem, ...] = ()
    person: PersonEvidence = field(default_factory=PersonEvidence)
    performed_station_ae_title: str | None = None
    modality: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    series: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    discontinuation_reason: str | None = None
    notes: tuple[str, ...] = ()
    """What was read leniently, in words without patient data."""


class PerformedUpdate(Protocol):
    """A modification list that can be laid over what is stored."""

    def apply_to(self, data_set: bytes) -> PerformedState:
        """Merge. Raises when the modality may not say that."""
        ...


@dataclass(frozen=True, slots=True)
class FeedbackTarget:
    """Where status messages for the RIS go."""

    destination: str
    kind: str = "mllp"


@dataclass(frozen=True, slots=True)
class PerformedPolicy:
    """What a site decides about performed steps."""

    feedback: FeedbackTarget | None = None
    auto_link: bool = False
    """Link an unscheduled step when exactly one open step fits and name and birth date agree."""
    idempotent_final: bool = False
    """An exact repetition of the finalising N-SET succeeds; PS3.4 F.7.2.2 refuses it."""
    idempotent_create: bool = False


@dataclass(slots=True)
class PerformedWork:
    """One report being taken: the transaction and what every step of the way needs."""

    uow: UnitOfWork
    clock: Clock
    encoder: StepEncoder
    messages: StatusMessages | None = None
    policy: PerformedPolicy = field(default_factory=PerformedPolicy)

    def record(self, name: EventName, step: PerformedStep, **details: str | int | list[str] | None) -> None:
        """Write an event about a performed step."""
        uid = step.study_instance_uids[0] if step.study_instance_uids else None
        self.uow.record(
            Event(
                name,
                Subject.PERFORMED_STEP,
                step.id,
                study_instance_uid=uid,
                actor=step.calling_ae_title,
                details={"sop_instance_uid": step.sop_instance_uid, **details},
            )
        )


# --- N-CREATE --------------------------------------------------------------------------------------------


def create_performed_step(
    work: PerformedWork, sop_instance_uid: str, state: PerformedState, *, calling_ae_title: str
) -> PerformedStep:
    """Store a new performed step and let what it performs follow. Raises DuplicateKey (0111).

    A report about a patient who is not the order's is taken, but moves nothing: a person decides.
    """
    uow = work.uow
    known = uow.performed.find(sop_instance_uid) if work.policy.idempotent_create else None
    if known is not None and known.data_set == state.data_set and known.calling_ae_title == calling_ae_title:
        return known
    performed = uow.performed.add(
        _stored(PerformedStep(0, sop_instance_uid, state.status, calling_ae_title, state.data_set), state),
        now=work.clock.now(),
    )
    work.record(EventName.MPPS_CREATED, performed, notes=list(state.notes))
    found, unknown = _scheduled(work, state)
    entries = [entry for entry in found if not _is_other_patient(work, state.person, entry)]
    strangers = [entry for entry in found if entry not in entries]
    if not found:
        entries, candidates = _unscheduled(work, state)
        if not entries:
            work.record(
                EventName.MPPS_UNMATCHED,
                performed,
                candidates=[str(entry.step.id) for entry in candidates],
            )
    elif unknown:
        work.record(EventName.MPPS_UNMATCHED, performed, unknown_items=unknown)
    if strangers:
        work.record(
            EventName.MPPS_PATIENT_MISMATCH, performed, steps=[str(entry.step.id) for entry in strangers]
        )
    if entries or strangers:
        performed = replace(performed, matched=bool(entries), patient_mismatch=bool(strangers))
        uow.performed.save(performed, now=work.clock.now())
    for entry in entries:
        uow.performed.link(performed.id, entry.step.id)
    _follow(work, performed, [entry.step.id for entry in entries], StepEvent.MPPS_IN_PROGRESS)
    return performed


# --- N-SET -----------------------------------------------------------------------------------------------


def update_performed_step(
    work: PerformedWork, sop_instance_uid: str, update: PerformedUpdate
) -> PerformedStep:
    """Lay a modification list over a performed step. Raises NotFound (0112), IllegalTransition (0110, A710).

    The row is locked: of two reports about one step the second sees what the first has done.
    """
    uow = work.uow
    uow.lock(f"performed:{sop_instance_uid}")
    before = uow.performed.find(sop_instance_uid, lock=True)
    if before is None:
        raise NotFound("There is no such performed procedure step.")
    if before.status is not PerformedStatus.IN_PROGRESS:
        if work.policy.idempotent_final and update.apply_to(before.data_set).data_set == before.data_set:
            return before
        advance_performed(before.status, before.status)
    state = update.apply_to(before.data_set)
    status = advance_performed(before.status, state.status)
    performed = replace(_stored(before, state), status=status)
    uow.performed.save(performed, now=work.clock.now())
    if status is PerformedStatus.IN_PROGRESS:
        work.record(EventName.MPPS_UPDATED, performed, notes=list(state.notes))
        return performed
    work.record(
        EventName.MPPS_FINISHED,
        performed,
        status=status.value,
        series=len(performed.series),
        instances=sum(len(images) for images in performed.series.values()),
        reason=performed.discontinuation_reason,
        notes=list(state.notes),
    )
    steps = uow.performed.steps_of(performed.id)
    by_event: dict[StepEvent, list[int]] = {}
    for step in steps:
        together = uow.performed.performed_of(step)
        if all(one.status is not PerformedStatus.IN_PROGRESS for one in together):
            by_event.setdefault(_ending(work, together), []).append(step)
    for event, ended in by_event.items():
        _follow(work, performed, ended, event)
    # What it lists may be here already: then nobody need wait for the quiet period.
    for study in performed.study_instance_uids:
        release_complete_series(uow, study, now=work.clock.now(), among=performed.series)
    return performed


def _ending(work: PerformedWork, together: Sequence[PerformedStep]) -> StepEvent:
    """Say how a scheduled step ends when all that performed it is final."""
    if any(one.status is PerformedStatus.COMPLETED for one in together):
        return StepEvent.MPPS_COMPLETED
    if any(_left_images(work, one, alone=len(together) == 1) for one in together):
        return StepEvent.MPPS_DISCONTINUED
    return StepEvent.MPPS_DISCONTINUED_WITHOUT_IMAGES


def _left_images(work: PerformedWork, performed: PerformedStep, *, alone: bool) -> bool:
    """Tell whether a discontinued step has images that somebody must decide about.

    Neither a wrong tap nor a failed tube may make the patient vanish from every scanner.
    """
    if performed.discontinuation_reason in _RESTORING_REASONS:
        return False
    if any(performed.series.values()):
        return True
    # Some devices never list what they made; what has come from them is proof enough.
    return (
        alone
        and not performed.series
        and any(
            instance.calling_ae_title == performed.calling_ae_title
            for uid in performed.study_instance_uids
            for instance in work.uow.instances.of_study(uid)
        )
    )


# --- what is meant ---------------------------------------------------------------------------------------


def _scheduled(work: PerformedWork, state: PerformedState) -> tuple[list[WorklistEntry], int]:
    """Find the steps the items name, and count the items that name none we know (IHE RAD-6, group case)."""
    found: dict[int, WorklistEntry] = {}
    unknown = 0
    for item in state.items:
        if not item.is_scheduled:
            continue
        entries = work.uow.steps.find_for_performed(
            study_instance_uid=item.study_instance_uid,
            accession_number=item.accession_number,
            requested_procedure_id=item.requested_procedure_id,
            scheduled_procedure_step_id=item.scheduled_procedure_step_id,
        )
        if len(entries) > 1:
            # Ids are reused over the years; the patient tells them apart.
            entries = [entry for entry in entries if not _is_other_patient(work, state.person, entry)]
        if len(entries) != 1:
            unknown += 1
        found |= {entry.step.id: entry for entry in entries if len(entries) == 1}
    return list(found.values()), unknown


def _unscheduled(
    work: PerformedWork, state: PerformedState
) -> tuple[list[WorklistEntry], list[WorklistEntry]]:
    """Find the open steps an unscheduled report may mean: one to link where the site wants that, else proposals."""
    candidates: dict[int, WorklistEntry] = {}
    for identifier in state.person.identifiers[:1]:
        patient = work.uow.patients.find(identifier)
        if patient is None:
            continue
        today = work.clock.local_now().strftime("%Y%m%d")
        for entry in work.uow.steps.entries_of_patient(patient.id, open_only=True):
            step = entry.step
            if step.modality == state.modality and step.start_date == today:
                candidates[step.id] = entry
    for accession in {item.accession_number for item in state.items if item.accession_number}:
        for order in work.uow.orders.with_accession(accession):
            for step in work.uow.steps.of_order(order.id):
                if step.status not in FINAL_STEPS and step.modality == state.modality:
                    candidates.setdefault(step.id, work.uow.steps.entry(step.id))
    proposals = list(candidates.values())
    if work.policy.auto_link and len(proposals) == 1:
        (entry,) = proposals
        person = state.person
        same_birth = bool(person.birth_date) and person.birth_date == entry.patient.birth_date
        if same_birth and same_person_name(person.name, entry.patient.name):
            return proposals, []
    return [], proposals


def _is_other_patient(work: PerformedWork, person: PersonEvidence, entry: WorklistEntry) -> bool:
    """Tell whether a report contradicts the patient of an order; a report without a patient does not."""
    if not person.identifiers and not person.name:
        return False
    patient = PersonEvidence.of(entry.patient)
    verdict = compare_persons(person, patient)
    if verdict.agreement is Agreement.SAME:
        # The same number under which somebody else altogether stands: another issuer's number.
        other_name = same_person_name(person.name, patient.name) is False
        other_birth = bool(
            person.birth_date and patient.birth_date and person.birth_date != patient.birth_date
        )
        return other_name and other_birth
    if not person.identifiers:
        return verdict.contradicted
    # Another number: the same person only where a merge has made it an alias. Twins share everything else.
    known = work.uow.patients.find(person.identifiers[0])
    return known is None or known.id != entry.patient.id


# --- what follows ----------------------------------------------------------------------------------------


def _follow(work: PerformedWork, performed: PerformedStep, steps: Sequence[int], event: StepEvent) -> None:
    """Let scheduled steps and their orders follow a performed step, and tell the RIS."""
    entries = [work.uow.steps.entry(step) for step in steps]
    orders = sorted({entry.order.id for entry in entries})
    if not orders:
        return
    work.uow.lock(*(f"order:{order}" for order in orders))
    moved: list[WorklistEntry] = []
    for step in steps:
        entry = _advance(work, performed, work.uow.steps.entry(step), event)
        if entry is not None:
            moved.append(entry)
    for order in orders:
        here = [entry for entry in moved if entry.order.id == order]
        if here:
            became = _roll_up(work, performed, here[0])
            _tell(work, performed, here, event, became)


def _advance(
    work: PerformedWork, performed: PerformedStep, entry: WorklistEntry, event: StepEvent
) -> WorklistEntry | None:
    """Move one scheduled step; nothing when its state does not follow (an append to a completed step)."""
    step = entry.step
    try:
        status = advance(step.status, event, previous=step.previous_status)
    except IllegalTransition:
        return None
    previous = step.previous_status
    if status is StepStatus.STARTED:
        previous = previous if step.status is StepStatus.STARTED else step.status
    elif status is StepStatus.DISCONTINUED:
        previous = StepStatus.STARTED  # marks what was discontinued at the scanner, with images
    else:
        previous = None
    entry = replace(entry, step=replace(step, status=status, previous_status=previous))
    entry = _with_study_start(work, performed, entry)
    work.uow.steps.save(entry, elements=work.encoder.encode(entry), now=work.clock.now())
    if status is not step.status:
        details: dict[str, str | int | float | bool | list[str] | None] = {
            "before": step.status.value,
            "after": status.value,
            "because": event.value,
            "performed_step": performed.id,
        }
        if step.status in (StepStatus.HELD, StepStatus.CANCELED, StepStatus.DISCONTINUED):
            details["warning"] = f"performed although {step.status.value}"
        work.uow.record(
            Event(
                EventName.STEP_STATUS_CHANGED,
                Subject.STEP,
                step.id,
                study_instance_uid=entry.procedure.study_instance_uid,
                order=entry.order.id,
                actor=performed.calling_ae_title,
                details=details,
            )
        )
    return entry


def _with_study_start(work: PerformedWork, performed: PerformedStep, entry: WorklistEntry) -> WorklistEntry:
    """Keep the earliest start of what was performed as Study Date and Time (PS3.4 table K.6-1, note 5)."""
    start = performed.started_at
    if not start:
        return entry
    attributes = entry.procedure.attributes
    known = str(attributes.get("StudyDate", "")) + str(attributes.get("StudyTime", ""))
    if known and known <= start:
        return entry
    procedure = replace(
        entry.procedure,
        attributes={**attributes, "StudyDate": start[:8], "StudyTime": start[8:]},
    )
    now = work.clock.now()
    work.uow.orders.save_procedure(procedure, now=now)
    for other in work.uow.steps.of_procedure(procedure.id):
        if other.id != entry.step.id:
            # The other steps of the procedure repeat its attributes in their own elements.
            sibling = replace(entry, procedure=procedure, step=other)
            work.uow.steps.save(sibling, elements=work.encoder.encode(sibling), now=now)
    return replace(entry, procedure=procedure)


def _roll_up(work: PerformedWork, performed: PerformedStep, entry: WorklistEntry) -> OrderStatus | None:
    """Bring the order's status up to date; answer it if it changed."""
    order = work.uow.orders.get(entry.order.id)
    status = roll_up([step.status for step in work.uow.steps.of_order(order.id)])
    if status is order.status:
        return None
    work.uow.orders.set_status(order.id, status, now=work.clock.now())
    work.uow.record(
        Event(
            EventName.ORDER_STATUS_CHANGED,
            Subject.ORDER,
            order.id,
            study_instance_uid=entry.procedure.study_instance_uid,
            order=order.id,
            actor=performed.calling_ae_title,
            details={"before": order.status.value, "after": status.value},
        )
    )
    return status


_TOLD = {
    OrderStatus.COMPLETED: PerformedStatus.COMPLETED,
    OrderStatus.DISCONTINUED: PerformedStatus.DISCONTINUED,
}


def _tell(
    work: PerformedWork,
    performed: PerformedStep,
    moved: Sequence[WorklistEntry],
    event: StepEvent,
    became: OrderStatus | None,
) -> None:
    """Write the messages for the RIS: in progress at once, final only when the whole order is.

    A completion per performed step would be billed early on append and split, and a wrong tap must not reach
    the RIS as a cancellation: a step that went back to the worklist sends nothing.
    """
    if work.policy.feedback is None or work.messages is None:
        return
    if event is StepEvent.MPPS_IN_PROGRESS:
        told: Sequence[WorklistEntry] = moved
        status = PerformedStatus.IN_PROGRESS
    elif became in _TOLD:
        status = _TOLD[became]
        order = moved[0].order.id
        told = [
            work.uow.steps.entry(step.id)
            for step in work.uow.steps.of_order(order)
            if step.status is not StepStatus.CANCELED
        ]
    else:
        return
    if work.uow.probes.among(entry.procedure.study_instance_uid for entry in told):
        return  # nobody was examined: the RIS has no such order
    now = work.clock.now()
    for entry in told:
        delivery = work.uow.deliveries.add(
            Delivery(
                id=0,
                destination=work.policy.feedback.destination,
                kind=work.policy.feedback.kind,
                route=None,
                unit="message",
                unit_uid=performed.sop_instance_uid,
                state=DeliveryState.PENDING,
                attempt=0,
                failures=0,
                due_at=now,
                created_at=now,
                study_instance_uid=entry.procedure.study_instance_uid,
                order=entry.order.id,
                # One order's messages go one at a time and in order.
                ordering_key=f"order:{entry.order.id}",
                payload=work.messages.status_message(entry, performed, status),
            ),
            now=now,
        )
        work.uow.record(
            Event(
                EventName.DELIVERY_CREATED,
                Subject.DELIVERY,
                delivery,
                study_instance_uid=entry.procedure.study_instance_uid,
                order=entry.order.id,
                actor=performed.calling_ae_title,
                details={"destination": work.policy.feedback.destination, "status": status.value},
            )
        )
        work.uow.wake(WakeUp(Task.DELIVER, delivery, work.policy.feedback.kind))


def _stored(performed: PerformedStep, state: PerformedState) -> PerformedStep:
    identifiers: tuple[PatientIdentifier, ...] = state.person.identifiers
    return replace(
        performed,
        data_set=state.data_set,
        performed_station_ae_title=state.performed_station_ae_title,
        modality=state.modality,
        patient_id=identifiers[0].value if identifiers else None,
        study_instance_uids=tuple(
            dict.fromkeys(item.study_instance_uid for item in state.items if item.study_instance_uid)
        ),
        series=state.series,
        started_at=state.started_at,
        ended_at=state.ended_at,
        discontinuation_reason=state.discontinuation_reason,
    )
