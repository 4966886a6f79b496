"""The facts rules look at: text values under one key each, from the image, from its order, from the device.

A key says where its values come from: `Modality` (or a path, `RequestAttributesSequence.RequestedProcedureID`)
is the image's own header, `order.accession_number` the joined order, `calling_ae_title` the sending device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from broker.domain.orders import (
    AttributeValue,
    Code,
    ImagingOrder,
    Patient,
    RequestedProcedure,
    ScheduledProcedureStep,
)

FactValues = Mapping[str, tuple[str, ...]]
"""Key -> values. Absent = missing, () = present without a value."""

CALLING_AE_TITLE = "calling_ae_title"
ORDER_PREFIX = "order."


class Source(Enum):
    """Where a fact was seen."""

    IMAGE = "image header"
    ORDER = "order"
    DEVICE = "device"


def source_of(key: str) -> Source:
    """Tell where the values of a key come from."""
    if key == CALLING_AE_TITLE:
        return Source.DEVICE
    return Source.ORDER if key.startswith(ORDER_PREFIX) else Source.IMAGE


ORDER_FIELDS: Mapping[str, str] = {
    "accession_number": "SH",
    "placer_order_number": "LO",
    "filler_order_number": "LO",
    "status": "CS",
    "patient_id": "LO",
    "issuer_of_patient_id": "LO",
    "patient_sex": "CS",
    "patient_birth_date": "DA",
    "requested_procedure_id": "SH",
    "procedure_code": "SH",
    "priority": "CS",
    "modality": "CS",
    "scheduled_procedure_step_id": "SH",
    "scheduled_station_ae_title": "AE",
    "scheduled_date": "DA",
    "protocol_code": "SH",
    "sending_application": "LO",
    "sending_facility": "LO",
}
"""`order.<field>` -> value representation (PS3.5 6.2), which decides how it is compared. Besides these, a rule
may name any DICOM keyword an order message may fill: `order.RequestedProcedureDescription`."""


@dataclass(frozen=True, slots=True)
class OrderView:
    """One requested procedure of an order, with everything a rule may ask of it."""

    patient: Patient
    order: ImagingOrder
    procedure: RequestedProcedure
    steps: tuple[ScheduledProcedureStep, ...] = ()


def order_facts(views: Sequence[OrderView], *, keys: Iterable[str] = ()) -> FactValues:
    """Answer the `order.` facts of the procedures behind one study; `keys` names further `order.<Keyword>`s.

    One study may serve several orders (the IHE group case): then a fact has the values of all of them.
    """
    facts: dict[str, tuple[str, ...]] = {}
    if not views:
        return facts
    for field in ORDER_FIELDS:
        facts[ORDER_PREFIX + field] = _distinct(value for view in views for value in _field(view, field))
    for key in keys:
        keyword = key.removeprefix(ORDER_PREFIX)
        if key.startswith(ORDER_PREFIX) and keyword not in ORDER_FIELDS:
            values = _distinct(value for view in views for value in _keyword(view, keyword))
            if values:
                facts[key] = values
    return {key: values for key, values in facts.items() if values}


def routing_facts(image: FactValues, *, calling_ae_title: str, order: FactValues) -> FactValues:
    """Put the facts of one instance together: its header, its order, its device."""
    return {**image, CALLING_AE_TITLE: (calling_ae_title,), **order}


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))


def _field(view: OrderView, field: str) -> tuple[str, ...]:
    order, procedure, patient = view.order, view.procedure, view.patient
    match field:
        case "accession_number":
            return (order.accession_number or "",)
        case "placer_order_number":
            return (order.placer_order_number.value if order.placer_order_number else "",)
        case "filler_order_number":
            return (order.filler_order_number.value if order.filler_order_number else "",)
        case "status":
            return (order.status.value,)
        case "patient_id":
            return (patient.patient_id,)
        case "issuer_of_patient_id":
            return (patient.issuer or "",)
        case "patient_sex":
            return (patient.sex or "",)
        case "patient_birth_date":
            return (patient.birth_date or "",)
        case "requested_procedure_id":
            return (procedure.requested_procedure_id,)
        case "procedure_code":
            return _keyword(view, "RequestedProcedureCodeSequence")
        case "priority":
            return _keyword(view, "RequestedProcedurePriority")
        case "modality":
            return tuple(step.modality or "" for step in view.steps)
        case "scheduled_procedure_step_id":
            return tuple(step.scheduled_procedure_step_id for step in view.steps)
        case "scheduled_station_ae_title":
            return tuple(title for step in view.steps for title in step.station_ae_titles)
        case "scheduled_date":
            return tuple(step.start_date or "" for step in view.steps)
        case "protocol_code":
            return _keyword(view, "ScheduledProtocolCodeSequence")
        case "sending_application":
            return (order.sending_application,)
        case "sending_facility":
            return (order.sending_facility,)
    return ()


def _keyword(view: OrderView, keyword: str) -> tuple[str, ...]:
    """Look a DICOM keyword up from the step outwards: step, procedure, order, patient."""
    found = tuple(text for step in view.steps for text in _texts(step.attributes.get(keyword)))
    for attributes in (view.procedure.attributes, view.order.attributes, view.patient.attributes):
        found = found or _texts(attributes.get(keyword))
    if not found and keyword == "PatientName":
        found = (view.patient.name,)
    return found


def _texts(value: AttributeValue | None) -> tuple[str, ...]:
    """Write an attribute as text values; a code is its value."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(item.value if isinstance(item, Code) else item for item in value)
