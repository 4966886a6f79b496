"""What the use cases need of stored patients, orders and scheduled steps."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from broker.domain.orders import (
    ImagingOrder,
    OrderDetails,
    Patient,
    PatientIdentifier,
    RequestedProcedure,
    ScheduledProcedureStep,
    WorklistEntry,
)
from broker.domain.steps import OrderStatus


class Patients(Protocol):
    """Stored patients; every finder follows merges to the survivor."""

    def find(self, identifier: PatientIdentifier) -> Patient | None:
        """Find by (value, issuer); a missing issuer on either side matches when exactly one patient fits."""
        ...

    def get(self, patient: int) -> Patient: ...
    def add(self, patient: Patient, *, now: datetime) -> Patient:
        """Store a new patient (its `id` is ignored) and answer it with its id."""
        ...

    def save(self, patient: Patient, *, now: datetime) -> None: ...
    def merge(self, *, absorbed: int, survivor: int, now: datetime) -> list[int]:
        """Move orders and steps of `absorbed` to `survivor`; answer the ids of the orders moved."""
        ...


class Orders(Protocol):
    """Stored orders and procedures."""

    def identify(self, details: OrderDetails, *, patient: int | None) -> list[ImagingOrder]:
        """Find the orders a message means.

        By Study Instance UID with step id, placer and filler number, filler, placer, accession with procedure
        id, accession; the first rule with a hit answers.
        """
        ...

    def get(self, order: int) -> ImagingOrder: ...
    def of_patient(self, patient: int) -> list[ImagingOrder]: ...
    def add(self, order: ImagingOrder, *, now: datetime) -> ImagingOrder: ...
    def save(self, order: ImagingOrder, *, now: datetime) -> None: ...
    def procedures(self, order: int) -> list[RequestedProcedure]: ...
    def procedures_with_study(self, study_instance_uid: str) -> list[RequestedProcedure]: ...
    def add_procedure(self, procedure: RequestedProcedure, *, now: datetime) -> RequestedProcedure: ...
    def save_procedure(self, procedure: RequestedProcedure, *, now: datetime) -> None: ...
    def with_accession(self, accession_number: str) -> list[ImagingOrder]: ...
    def set_status(self, order: int, status: OrderStatus, *, now: datetime) -> None: ...


class Steps(Protocol):
    """Stored scheduled procedure steps. Saving one also writes its matching copies and encoded elements."""

    def of_order(self, order: int) -> list[ScheduledProcedureStep]: ...
    def of_procedure(self, procedure: int) -> list[ScheduledProcedureStep]: ...
    def get(self, step: int) -> ScheduledProcedureStep: ...
    def add(self, entry: WorklistEntry, *, elements: bytes, now: datetime) -> ScheduledProcedureStep:
        """Store `entry.step` (its `id` is ignored), answer it with its id."""
        ...

    def save(self, entry: WorklistEntry, *, elements: bytes, now: datetime) -> None:
        """Store `entry.step`, raising its revision."""
        ...

    def entry(self, step: int) -> WorklistEntry: ...
    def entries_of_patient(self, patient: int, *, open_only: bool) -> list[WorklistEntry]: ...
    def find_for_performed(
        self,
        *,
        study_instance_uid: str | None,
        accession_number: str | None,
        requested_procedure_id: str | None,
        scheduled_procedure_step_id: str | None,
    ) -> list[WorklistEntry]:
        """Find the steps one item of Scheduled Step Attributes Sequence means.

        (Study UID, SPS id), then (accession, SPS id), then (procedure id, SPS id); the first with a hit answers.
        """
        ...


class StepEncoder(Protocol):
    """Encodes what C-FIND may answer of an entry, once, when the entry changes."""

    def encode(self, entry: WorklistEntry) -> bytes: ...
