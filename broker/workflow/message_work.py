"""One message being applied: what every use case of an order or patient message carries with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from broker.domain.attributes import missing_type_1
from broker.domain.events import Event, EventName, Subject
from broker.domain.orders import MessageSource, PatientIdentifier, ScheduledProcedureStep, WorklistEntry
from broker.workflow.order_policy import OrderPolicy
from broker.workflow.orders_port import StepEncoder
from broker.workflow.unit_of_work import UnitOfWork

Detail = str | int | float | bool | None | list[str]


@dataclass(slots=True)
class MessageWork:
    """The transaction, the time and the site's decisions, and what is to be told about the message."""

    uow: UnitOfWork
    now: datetime
    encoder: StepEncoder
    policy: OrderPolicy
    source: MessageSource
    warnings: list[str] = field(default_factory=list)
    touched_steps: set[int] = field(default_factory=set)
    """Steps this message has spoken of: the next group of it means another one."""
    strangers: set[PatientIdentifier] = field(default_factory=set)
    """Identifiers just looked up, under which no patient is known; forgotten when a patient is written."""

    def warn(self, warning: str) -> None:
        """Keep a sentence for the answer, once."""
        if warning not in self.warnings:
            self.warnings.append(warning)

    def record(
        self,
        name: EventName,
        subject: Subject,
        subject_id: int,
        *,
        order: int | None = None,
        study_instance_uid: str | None = None,
        **details: Detail,
    ) -> None:
        """Write an event that names the message it came from."""
        where: dict[str, Detail] = {"message_control_id": self.source.message_control_id}
        if self.source.message_row is not None:
            where["message"] = self.source.message_row
        self.uow.record(
            Event(
                name,
                subject,
                subject_id,
                study_instance_uid=study_instance_uid,
                order=order,
                actor=self.source.sending_application or "broker",
                details={**where, **details},
            )
        )

    def add_step(self, entry: WorklistEntry) -> ScheduledProcedureStep:
        """Store a new step with its encoded elements, and say so."""
        entry = with_missing(entry)
        step = self.uow.steps.add(entry, elements=self.encoder.encode(entry), now=self.now)
        self.touched_steps.add(step.id)
        uid = entry.procedure.study_instance_uid
        self.record(
            EventName.STEP_SCHEDULED,
            Subject.STEP,
            step.id,
            order=entry.order.id,
            study_instance_uid=uid,
            status=step.status.value,
            scheduled_procedure_step_id=step.scheduled_procedure_step_id,
            station_ae_titles=list(step.station_ae_titles),
        )
        self._tell_incomplete(entry, step.id, before=())
        return step

    def save_step(self, entry: WorklistEntry) -> None:
        """Store a step again: its elements repeat patient, order and procedure, so any of them may be why."""
        before = entry.step.missing
        entry = with_missing(entry)
        self.uow.steps.save(entry, elements=self.encoder.encode(entry), now=self.now)
        self._tell_incomplete(entry, entry.step.id, before=before)

    def _tell_incomplete(self, entry: WorklistEntry, step: int, *, before: tuple[str, ...]) -> None:
        missing = entry.step.missing
        if not missing or missing == before:
            return
        self.warn(f"the step is stored but not on the worklist: {', '.join(missing)} missing")
        self.record(
            EventName.ORDER_INCOMPLETE,
            Subject.STEP,
            step,
            order=entry.order.id,
            study_instance_uid=entry.procedure.study_instance_uid,
            missing=list(missing),
        )


def with_missing(entry: WorklistEntry) -> WorklistEntry:
    """Answer the entry whose step knows what it lacks."""
    missing = missing_type_1(entry)
    if missing == entry.step.missing:
        return entry
    return replace(entry, step=replace(entry.step, missing=missing))
