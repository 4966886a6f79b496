"""An order with everything under it, while a message is applied to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from broker.domain.orders import (
    AttributeValue,
    Changes,
    ImagingOrder,
    Patient,
    RequestedProcedure,
    ScheduledProcedureStep,
    WorklistEntry,
)
from broker.domain.steps import StepStatus
from broker.errors import RecordLocked
from broker.workflow.message_work import MessageWork

GENERATED = "generated"
"""The source of a value the broker made up."""

BEGUN = frozenset({StepStatus.STARTED, StepStatus.DEPARTED, StepStatus.COMPLETED})
"""A scanner has used these: what it was told may not change behind its back."""


@dataclass(slots=True)
class OrderTree:
    """An order with everything under it, as stored and as changed by the message so far."""

    patient: Patient
    order: ImagingOrder
    procedures: list[RequestedProcedure] = field(default_factory=list)
    steps: list[ScheduledProcedureStep] = field(default_factory=list)

    @property
    def studies(self) -> list[str]:
        """List the Study Instance UIDs of its procedures."""
        return [procedure.study_instance_uid for procedure in self.procedures]

    def steps_of(self, procedure: int) -> list[ScheduledProcedureStep]:
        """List the steps of one procedure, oldest first."""
        return [step for step in self.steps if step.procedure == procedure]

    def entry(self, step: ScheduledProcedureStep) -> WorklistEntry:
        """Answer the worklist entry of a step."""
        procedure = next(p for p in self.procedures if p.id == step.procedure)
        return WorklistEntry(self.patient, self.order, procedure, step)

    def keep(self, step: ScheduledProcedureStep) -> None:
        """Put the changed step in the place of what it was."""
        self.steps = [step if known.id == step.id else known for known in self.steps]


def load_tree(work: MessageWork, patient: Patient, order: ImagingOrder) -> OrderTree:
    """Read an order with everything under it."""
    return OrderTree(patient, order, work.uow.orders.procedures(order.id), work.uow.steps.of_order(order.id))


def refuse_after_start(
    work: MessageWork, steps: Sequence[ScheduledProcedureStep], changed: Sequence[str], locked: Sequence[str]
) -> None:
    """Refuse to change, once a scanner has begun, what the scanner's images already say."""
    hit = [keyword for keyword in changed if keyword in locked]
    if hit and not work.policy.allow_change_after_start and any(step.status in BEGUN for step in steps):
        raise RecordLocked("The procedure has begun; this may not change any more.", field=hit[0])


def told_sources(sources: Mapping[str, str], changed: Sequence[str]) -> list[str]:
    """Say where the new values came from."""
    return [f"{keyword}: {sources[keyword]}" for keyword in changed if keyword in sources]


def without(changes: Changes, keys: frozenset[str]) -> dict[str, AttributeValue | None]:
    """Answer the changes that are plain attributes."""
    return {keyword: value for keyword, value in changes.items() if keyword not in keys}
