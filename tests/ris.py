"""A RIS for tests: builds order and patient messages of synthetic people and applies them to a real database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, select
from sqlmodel import SQLModel

from broker.db.schema import STEP
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.domain.events import EventName
from broker.domain.orders import (
    EntityIdentifier,
    ImagingOrder,
    MergePatients,
    MessageSource,
    OrderAction,
    OrderDetails,
    PatientDetails,
    PatientIdentifier,
    PlaceOrders,
    ProcedureDetails,
    StepDetails,
    UpdatePatient,
    WorklistEntry,
)
from broker.domain.steps import StepEvent, StepStatus, advance, roll_up
from broker.workflow.order_policy import OrderPolicy, OrdersPlaced
from broker.workflow.orders import place_orders
from broker.workflow.patients import merge_patients, update_patient

START = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
NAMESPACE = UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
POLICY = OrderPolicy(NAMESPACE, stations={"CT": ("CT1", "CT2"), "MR": ("MR1",)})
HAYDN = PatientDetails(
    (PatientIdentifier("P1", "HOSP"),),
    {"PatientName": "HAYDN^JOSEPH", "PatientBirthDate": "17320331", "PatientSex": "M"},
    {"PatientName": "PID-5", "PatientBirthDate": "PID-7"},
)
MOZART = PatientDetails((PatientIdentifier("P2", "HOSP"),), {"PatientName": "MOZART^NANNERL"})


@dataclass
class FixedClock:
    """Stands still until told."""

    instant: datetime = START

    def now(self) -> datetime:
        return self.instant

    def local_now(self) -> datetime:
        return self.instant

    def monotonic(self) -> float:
        return self.instant.timestamp()

    def advance(self, **by: float) -> None:
        self.instant += timedelta(**by)


class NoQueue:
    """Wakes nobody."""

    def wake(self, wake_ups: object) -> None:
        del wake_ups


class ReadableEncoder:
    """Encodes what a scanner would read, legibly."""

    def encode(self, entry: WorklistEntry) -> bytes:
        step = entry.step
        parts = (
            entry.patient.name,
            entry.patient.patient_id,
            entry.order.accession_number or "",
            entry.procedure.requested_procedure_id,
            entry.procedure.study_instance_uid,
            step.scheduled_procedure_step_id,
            step.modality or "",
            "\\".join(step.station_ae_titles),
            step.status.value,
        )
        return "|".join(parts).encode()


def a_step(step_id: str | None = "S1", **changes: Any) -> StepDetails:
    unspecified = bool(changes.pop("time_unspecified", False))
    defaults = {
        "Modality": "CT",
        "ScheduledStationAETitle": ("CT1",),
        "ScheduledProcedureStepStartDate": "20261121",
        "ScheduledProcedureStepStartTime": "093000",
        "ScheduledProcedureStepDescription": "CT CHEST",
    }
    given = {key: value for key, value in {**defaults, **changes}.items() if value != "absent"}
    sources = {"Modality": "OBR-24"}
    return StepDetails(step_id, given, time_unspecified=unspecified, sources=sources)


def a_procedure(
    procedure_id: str | None = "RP1", uid: str | None = None, *steps: StepDetails, **changes: Any
) -> ProcedureDetails:
    return ProcedureDetails(
        procedure_id, uid, steps or (a_step(),), {"RequestedProcedureDescription": "CT CHEST", **changes}
    )


def an_order(
    action: OrderAction = OrderAction.PLACE,
    control: str = "NW",
    *procedures: ProcedureDetails,
    **fields: Any,
) -> OrderDetails:
    base = OrderDetails(
        action=action,
        order_control=control,
        order_status=None,
        placer_order_number=EntityIdentifier("PL1", "RIS"),
        filler_order_number=EntityIdentifier("FI1", "RIS"),
        accession_number="A1",
        issuer_of_accession_number=None,
        procedures=procedures or (a_procedure(),),
        changes={"RequestingPhysician": "SALOMON^J"},
    )
    return replace(base, **fields)


def a_status(action: OrderAction, control: str, **fields: Any) -> OrderDetails:
    """Build a message that names the order and says nothing else of it."""
    return replace(an_order(action, control), procedures=fields.pop("procedures", ()), changes={}, **fields)


@dataclass
class Ris:
    """Sends messages, one transaction each, and looks at what they led to."""

    engine: Engine
    clock: FixedClock = field(default_factory=FixedClock)
    policy: OrderPolicy = POLICY
    application: str = "RIS"
    numbers: Any = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.units = SqlUnitsOfWork(self.engine, NoQueue(), self.clock)
        self.encoder = ReadableEncoder()

    def source(self, sent_at: datetime | None = None) -> MessageSource:
        return MessageSource(
            self.application, "HOSP", f"M{next(self.numbers)}", sent_at=sent_at or self.clock.now()
        )

    def send(
        self, *orders: OrderDetails, patient: PatientDetails = HAYDN, sent_at: datetime | None = None
    ) -> OrdersPlaced:
        """Send one order message, a second after the one before it."""
        if sent_at is None:
            self.clock.advance(seconds=1)
        request = PlaceOrders(self.source(sent_at), patient, orders or (an_order(),))
        with self.units() as uow:
            done = place_orders(request, uow, clock=self.clock, encoder=self.encoder, policy=self.policy)
            uow.commit()
        return done

    def update(self, patient: PatientDetails, event: str = "A08") -> Any:
        with self.units() as uow:
            request = UpdatePatient(self.source(), patient, event)
            done = update_patient(request, uow, clock=self.clock, encoder=self.encoder, policy=self.policy)
            uow.commit()
        return done

    def merge(self, survivor: PatientDetails, absorbed: PatientIdentifier) -> Any:
        with self.units() as uow:
            request = MergePatients(self.source(), survivor, absorbed)
            done = merge_patients(request, uow, clock=self.clock, encoder=self.encoder, policy=self.policy)
            uow.commit()
        return done

    def entries(self, patient: PatientDetails = HAYDN) -> list[WorklistEntry]:
        with self.units() as uow:
            found = uow.patients.find(patient.identifiers[0])
            return [] if found is None else uow.steps.entries_of_patient(found.id, open_only=False)

    def entry(self, patient: PatientDetails = HAYDN) -> WorklistEntry:
        (entry,) = self.entries(patient)
        return entry

    def statuses(self, patient: PatientDetails = HAYDN) -> dict[str, str]:
        return {e.step.scheduled_procedure_step_id: e.step.status.value for e in self.entries(patient)}

    def orders(self, patient: PatientDetails = HAYDN) -> list[ImagingOrder]:
        with self.units() as uow:
            found = uow.patients.find(patient.identifiers[0])
            return [] if found is None else uow.orders.of_patient(found.id)

    def happen(self, event: StepEvent, step_id: str = "S1", patient: PatientDetails = HAYDN) -> None:
        """Let a scanner report something of a step."""
        for entry in self.entries(patient):
            if entry.step.scheduled_procedure_step_id != step_id:
                continue
            status = advance(entry.step.status, event, previous=entry.step.previous_status)
            changed = replace(
                entry, step=replace(entry.step, status=status, previous_status=entry.step.status)
            )
            with self.units() as uow:
                uow.steps.save(changed, elements=self.encoder.encode(changed), now=self.clock.now())
                steps = [step.status for step in uow.steps.of_order(entry.order.id)]
                uow.orders.set_status(entry.order.id, roll_up(steps), now=self.clock.now())
                uow.commit()

    def elements(self) -> list[str]:
        with self.engine.connect() as connection:
            return [
                bytes(row).decode()
                for row in connection.execute(select(STEP.c.elements).order_by(STEP.c.id)).scalars()
            ]

    def events(self, *names: EventName) -> list[Any]:
        table = SQLModel.metadata.tables["event"]
        wanted = [name.value for name in names] or [name.value for name in EventName]
        with self.engine.connect() as connection:
            rows: Sequence[Any] = connection.execute(
                select(table).where(table.c.name.in_(wanted)).order_by(table.c.id)
            ).all()
        return list(rows)

    def snapshot(self) -> dict[str, list[Any]]:
        """Answer every row that says something of patients and orders, but for what only counts time."""
        names = (
            "patient",
            "patient_alias",
            "imaging_order",
            "requested_procedure",
            "scheduled_procedure_step",
            "event",
        )
        with self.engine.connect() as connection:
            return {
                name: [
                    {k: v for k, v in row._mapping.items() if k not in ("updated_at", "last_event_at")}
                    for row in connection.execute(select(SQLModel.metadata.tables[name]))
                ]
                for name in names
            }


SCHEDULED, CANCELED = StepStatus.SCHEDULED.value, StepStatus.CANCELED.value
