"""Builds worklist entries of synthetic people."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from broker.domain.orders import (
    Code,
    EntityIdentifier,
    ImagingOrder,
    Patient,
    PatientIdentifier,
    RequestedProcedure,
    ScheduledProcedureStep,
    WorklistEntry,
)
from broker.domain.steps import OrderStatus, StepStatus


def an_entry(
    number: int = 1,
    *,
    name: str = "HAYDN^JOSEPH^^^",
    modality: str = "CT",
    stations: tuple[str, ...] = ("CT1",),
    start: tuple[str, str] = ("20261121", "093000"),
    status: StepStatus = StepStatus.SCHEDULED,
    time_unspecified: bool = False,
    **changes: Any,
) -> WorklistEntry:
    """Build an entry whose every identifier carries `number`; `changes` are attributes of the step."""
    patient = Patient(
        id=number,
        patient_id=f"PID{number}",
        issuer="HOSP",
        name=name.rstrip("^"),
        birth_date="17320331",
        sex="M",
        other_ids=(PatientIdentifier(f"OLD{number}", "ELSEWHERE"),),
        attributes={"PatientWeight": "71.5", "Allergies": ("NUTS", "IODINE"), "PregnancyStatus": "4"},
    )
    order = ImagingOrder(
        id=number,
        patient=number,
        placer_order_number=EntityIdentifier(f"P{number}", "RIS"),
        filler_order_number=EntityIdentifier(f"F{number}", "RIS"),
        accession_number=f"A{number}",
        issuer_of_accession_number="HOSP",
        status=OrderStatus.SCHEDULED,
        attributes={"RequestingPhysician": "SALOMON^JOHANN", "ReferringPhysicianName": "SWIETEN^GOTTFRIED"},
    )
    procedure = RequestedProcedure(
        id=number,
        order=number,
        requested_procedure_id=f"RP{number}",
        study_instance_uid=f"1.2.826.0.1.{number}",
        attributes={
            "RequestedProcedureDescription": "CT CHEST",
            "RequestedProcedureCodeSequence": (Code("CTCH", "99LOCAL", "CT chest"),),
            "RequestedProcedurePriority": "STAT",
        },
    )
    step = ScheduledProcedureStep(
        id=number,
        procedure=number,
        scheduled_procedure_step_id=f"S{number}",
        modality=modality,
        station_ae_titles=stations,
        start_date=start[0],
        start_time=start[1],
        status=status,
        time_unspecified=time_unspecified,
        attributes={
            "ScheduledProcedureStepDescription": "CHEST WITH CONTRAST",
            "ScheduledProtocolCodeSequence": (
                Code("CTCHC", "99LOCAL", "Chest with contrast", "1.0"),
                Code("X2", "99LOCAL", "Second"),
            ),
            "ScheduledStationName": ("CT ROOM 1",),
            **changes,
        },
    )
    return WorklistEntry(patient, order, procedure, step)


def with_patient(entry: WorklistEntry, **changes: Any) -> WorklistEntry:
    """Change fields of an entry's patient."""
    return replace(entry, patient=replace(entry.patient, **changes))
