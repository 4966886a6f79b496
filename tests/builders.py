"""Builds records of synthetic people, every field given or sensible."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from broker.domain.delivery import DeliveryState
from broker.domain.orders import (
    EntityIdentifier,
    ImagingOrder,
    OrderAction,
    OrderDetails,
    Patient,
    PatientIdentifier,
    RequestedProcedure,
    ScheduledProcedureStep,
    WorklistEntry,
)
from broker.domain.steps import OrderStatus, PerformedStatus, StepStatus
from broker.workflow.deliveries_port import Delivery
from broker.workflow.images_port import Instance, InstanceState
from broker.workflow.messages_port import MessageOutcome, StoredMessage
from broker.workflow.performed_port import PerformedStep
from broker.workflow.unit_of_work import UnitOfWork

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def a_patient(number: int = 1, **changes: Any) -> Patient:
    """Build a patient who is not stored yet."""
    patient = Patient(
        id=0,
        patient_id=f"PID{number}",
        issuer="HOSP",
        name=f"HAYDN{number}^JOSEPH",
        birth_date="17320331",
        sex="M",
        attributes={"PatientWeight": "71.5", "Allergies": ("NUTS", "IODINE")},
    )
    return replace(patient, **changes)


def an_order(patient: int, number: int = 1, **changes: Any) -> ImagingOrder:
    """Build an order that is not stored yet."""
    order = ImagingOrder(
        id=0,
        patient=patient,
        placer_order_number=EntityIdentifier(f"P{number}", "RIS"),
        filler_order_number=EntityIdentifier(f"F{number}", "RIS"),
        accession_number=f"A{number}",
        issuer_of_accession_number=None,
        status=OrderStatus.SCHEDULED,
        attributes={"ReferringPhysicianName": "SWIETEN^GOTTFRIED"},
        sending_application="RIS",
        sending_facility="HOSP",
    )
    return replace(order, **changes)


def a_procedure(order: int, number: int = 1, **changes: Any) -> RequestedProcedure:
    """Build a requested procedure that is not stored yet."""
    procedure = RequestedProcedure(
        id=0,
        order=order,
        requested_procedure_id=f"RP{number}",
        study_instance_uid=f"1.2.826.0.1.{number}",
        attributes={"RequestedProcedureDescription": "CT CHEST"},
    )
    return replace(procedure, **changes)


def a_step(procedure: int, number: int = 1, **changes: Any) -> ScheduledProcedureStep:
    """Build a scheduled procedure step that is not stored yet."""
    step = ScheduledProcedureStep(
        id=0,
        procedure=procedure,
        scheduled_procedure_step_id=f"SPS{number}",
        modality="CT",
        station_ae_titles=("CT1",),
        start_date="20261121",
        start_time="093000",
        status=StepStatus.SCHEDULED,
    )
    return replace(step, **changes)


def a_stored_entry(
    uow: UnitOfWork,
    number: int = 1,
    *,
    patient: Patient | None = None,
    order: dict[str, Any] | None = None,
    procedure: dict[str, Any] | None = None,
    step: dict[str, Any] | None = None,
    now: datetime = NOW,
) -> WorklistEntry:
    """Store a patient (or take one), an order, a procedure and a step, and answer them."""
    patient = patient or uow.patients.add(a_patient(number), now=now)
    the_order = uow.orders.add(an_order(patient.id, number, **(order or {})), now=now)
    the_procedure = uow.orders.add_procedure(a_procedure(the_order.id, number, **(procedure or {})), now=now)
    entry = WorklistEntry(patient, the_order, the_procedure, a_step(the_procedure.id, number, **(step or {})))
    return replace(entry, step=uow.steps.add(entry, elements=b"elements", now=now))


def order_details(**changes: Any) -> OrderDetails:
    """Build what a message says of an order: nothing, unless told."""
    details = OrderDetails(
        action=OrderAction.PLACE,
        order_control="NW",
        order_status=None,
        placer_order_number=None,
        filler_order_number=None,
        accession_number=None,
        issuer_of_accession_number=None,
        procedures=(),
    )
    return replace(details, **changes)


def an_identifier(value: str, issuer: str | None = None) -> PatientIdentifier:
    """Build a patient identifier."""
    return PatientIdentifier(value, issuer)


def an_instance(number: int = 1, **changes: Any) -> Instance:
    """Build a received object that is not stored yet."""
    instance = Instance(
        id=0,
        sop_instance_uid=f"1.2.826.0.2.{number}",
        version=1,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_instance_uid="1.2.826.0.1.1",
        series_instance_uid="1.2.826.0.1.1.1",
        path=f"20261121/{number}.dcm",
        size_bytes=1000 + number,
        data_set_offset=350,
        sha256=bytes([number % 256]) * 32,
        facts={"Modality": ("CT",), "PatientName": ()},
        calling_ae_title="CT1",
        called_ae_title="BROKER",
        peer="127.0.0.1",
        state=InstanceState.RECEIVED,
        received_at=NOW,
        last_received_at=NOW,
        patient_id="PID1",
        accession_number="A1",
        modality="CT",
    )
    return replace(instance, **changes)


def a_delivery(number: int = 1, **changes: Any) -> Delivery:
    """Build a delivery that is not stored yet: due now, to `archive`, of a unit of its own."""
    delivery = Delivery(
        id=0,
        destination="archive",
        kind="dicom",
        route="everything",
        unit="series",
        unit_uid=f"1.2.826.0.1.1.{number}",
        state=DeliveryState.PENDING,
        attempt=0,
        failures=0,
        due_at=NOW,
        created_at=NOW,
        study_instance_uid="1.2.826.0.1.1",
    )
    return replace(delivery, **changes)


def a_message_delivery(key: str | None, number: int = 1, **changes: Any) -> Delivery:
    """Build a delivery of bytes to the RIS, ordered by `key`."""
    return a_delivery(
        number,
        **{
            "destination": "ris",
            "kind": "mllp",
            "route": None,
            "unit": "message",
            "unit_uid": f"message-{number}",
            "ordering_key": key,
            "payload": b"MSH|",
            **changes,
        },
    )


def a_message(number: int = 1, **changes: Any) -> StoredMessage:
    """Build an inbound message that is not stored yet."""
    message = StoredMessage(
        id=0,
        received_at=NOW,
        peer="127.0.0.1",
        sending_application="RIS",
        sending_facility="HOSP",
        message_control_id=f"M{number}",
        message_type="ORM^O01",
        content_sha256=bytes([number % 256]) * 32,
        raw=b"MSH|^~\\&|RIS|HOSP",
        outcome=MessageOutcome.ACCEPTED,
        acknowledgement_code="AA",
        answer=b"MSH|^~\\&|BROKER",
    )
    return replace(message, **changes)


def a_performed_step(number: int = 1, **changes: Any) -> PerformedStep:
    """Build a performed procedure step that is not stored yet."""
    step = PerformedStep(
        id=0,
        sop_instance_uid=f"1.2.826.0.3.{number}",
        status=PerformedStatus.IN_PROGRESS,
        calling_ae_title="CT1",
        data_set=b"\x08\x00",
        modality="CT",
        study_instance_uids=(f"1.2.826.0.1.{number}",),
        series={f"1.2.826.0.1.1.{number}": ("1.2.3", "1.2.4")},
    )
    return replace(step, **changes)
