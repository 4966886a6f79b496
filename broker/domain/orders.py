"""Patients, orders, procedures and steps, and the requests that change them.

Identifying and matching attributes are fields. Everything else a message may say lies in `attributes`,
keyed by its DICOM keyword (PS3.6), so that a new attribute needs a line in a mapping file and no new column.
Text is Unicode (NFC); names are DICOM PN strings (`family^given^middle^prefix^suffix`, groups joined by `=`);
dates are `YYYYMMDD` and times `HHMMSS` of the site's wall clock (PS3.5 6.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from broker.domain.steps import OrderStatus, StepStatus


@dataclass(frozen=True, slots=True)
class Code:
    """A code item (PS3.3 8.8): value, coding scheme, meaning."""

    value: str
    scheme: str
    meaning: str
    version: str | None = None


AttributeValue = str | tuple[str, ...] | tuple[Code, ...]
"""One value, several values of one attribute, or the items of a code sequence."""

Attributes = Mapping[str, AttributeValue]
"""DICOM keyword -> value. Absent and empty are the same: not known."""

Changes = Mapping[str, AttributeValue | None]
"""DICOM keyword -> new value. Absent keeps what is stored, None clears it (HL7 v2.5.1 2.5.3, the `""`)."""


@dataclass(frozen=True, slots=True)
class EntityIdentifier:
    """An HL7 EI: an identifier with its assigning authority (placer and filler order numbers)."""

    value: str
    namespace: str | None = None
    universal_id: str | None = None
    universal_id_type: str | None = None


@dataclass(frozen=True, slots=True)
class PatientIdentifier:
    """An HL7 CX: patient_id (0010,0020) with its issuer (0010,0021)."""

    value: str
    issuer: str | None = None
    universal_id: str | None = None
    universal_id_type: str | None = None
    type_code: str | None = None


class OrderAction(Enum):
    """What an order message wants done, whatever dialect said it (HL7 tables 0119 and 0038)."""

    PLACE = "place"
    """Create the order; known already: the same as CHANGE."""
    CHANGE = "change"
    """Update; not known: create."""
    COMPLETE = "complete"
    CANCEL = "cancel"
    DISCONTINUE = "discontinue"
    HOLD = "hold"
    RELEASE = "release"
    ARRIVE = "arrive"
    RESCHEDULE_STATUS = "reschedule_status"
    """SC with SC: back to SCHEDULED if it has not started."""
    IGNORE = "ignore"
    """Acknowledge, keep the message, change nothing."""


@dataclass(frozen=True, slots=True)
class PatientDetails:
    """What one message says of a patient. The first identifier is the primary one."""

    identifiers: tuple[PatientIdentifier, ...]
    changes: Changes = field(default_factory=dict)
    """PatientName, PatientBirthDate, PatientSex, PatientWeight, Allergies, AdmissionID …"""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Keyword -> where the value came from (`PID-5`)."""


@dataclass(frozen=True, slots=True)
class StepDetails:
    """What one message says of a scheduled procedure step."""

    scheduled_procedure_step_id: str | None
    changes: Changes = field(default_factory=dict)
    """ScheduledProcedureStepStartDate/-Time, Modality, ScheduledStationAETitle (tuple) …"""
    time_unspecified: bool = False
    """A date came without a time of day: the step matches every time of its day."""
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcedureDetails:
    """What one message says of a requested procedure."""

    requested_procedure_id: str | None
    study_instance_uid: str | None
    steps: tuple[StepDetails, ...]
    changes: Changes = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OrderDetails:
    """What one message says of an imaging service request."""

    action: OrderAction
    order_control: str
    order_status: str | None
    placer_order_number: EntityIdentifier | None
    filler_order_number: EntityIdentifier | None
    accession_number: str | None
    issuer_of_accession_number: str | None
    procedures: tuple[ProcedureDetails, ...]
    occurred_at: datetime | None = None
    """ORC-9, else None; UTC."""
    changes: Changes = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    steps_are_complete: bool = False
    """The message lists every step of the order: stored unstarted steps it lacks are cancelled."""


@dataclass(frozen=True, slots=True)
class MessageSource:
    """Where a request came from."""

    sending_application: str
    sending_facility: str
    message_control_id: str
    message_row: int | None = None
    """Row of the raw message, for the timeline."""
    sent_at: datetime | None = None
    """MSH-7, UTC."""


@dataclass(frozen=True, slots=True)
class PlaceOrders:
    """All order groups of one message; they take effect together or not at all."""

    source: MessageSource
    patient: PatientDetails
    orders: tuple[OrderDetails, ...]


@dataclass(frozen=True, slots=True)
class UpdatePatient:
    """ADT^A08 and its kin."""

    source: MessageSource
    patient: PatientDetails
    event: str = "A08"


@dataclass(frozen=True, slots=True)
class MergePatients:
    """ADT^A40: `absorbed` becomes part of `survivor`."""

    source: MessageSource
    survivor: PatientDetails
    absorbed: PatientIdentifier


@dataclass(frozen=True, slots=True)
class Patient:
    """A stored patient."""

    id: int
    patient_id: str
    issuer: str | None
    name: str
    birth_date: str | None
    sex: str | None
    other_ids: tuple[PatientIdentifier, ...] = ()
    attributes: Attributes = field(default_factory=dict)
    """Everything else, PatientName and the like excluded."""
    merged_into: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImagingOrder:
    """A stored imaging service request."""

    id: int
    patient: int
    placer_order_number: EntityIdentifier | None
    filler_order_number: EntityIdentifier | None
    accession_number: str | None
    issuer_of_accession_number: str | None
    status: OrderStatus
    attributes: Attributes = field(default_factory=dict)
    sending_application: str = ""
    sending_facility: str = ""
    last_event_at: datetime | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestedProcedure:
    """A stored requested procedure: one Study Instance UID (PS3.3 C.4.11)."""

    id: int
    order: int
    requested_procedure_id: str
    study_instance_uid: str
    attributes: Attributes = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScheduledProcedureStep:
    """A stored scheduled procedure step: one worklist entry (PS3.3 C.4.10)."""

    id: int
    procedure: int
    scheduled_procedure_step_id: str
    modality: str | None
    station_ae_titles: tuple[str, ...]
    start_date: str | None
    start_time: str | None
    status: StepStatus
    previous_status: StepStatus | None = None
    time_unspecified: bool = False
    attributes: Attributes = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    """Keywords of the Type 1 attributes it lacks; not empty = kept, listed as incomplete, not on the worklist."""
    revision: int = 0
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorklistEntry:
    """A step with all that C-FIND may answer of it (PS3.4 K.6.1.2.2)."""

    patient: Patient
    order: ImagingOrder
    procedure: RequestedProcedure
    step: ScheduledProcedureStep
