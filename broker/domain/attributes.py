"""Changes applied to what is stored: absent keeps, None clears, a value replaces (HL7 v2.5.1 2.5.3)."""

from __future__ import annotations

from collections.abc import Mapping

from broker.domain.orders import Attributes, AttributeValue, Changes, WorklistEntry

MAX_SHOWN_CHARACTERS = 64

_EITHER = (
    ("procedure", "RequestedProcedureDescription", "RequestedProcedureCodeSequence"),
    ("step", "ScheduledProcedureStepDescription", "ScheduledProtocolCodeSequence"),
)


def apply_changes(stored: Attributes, changes: Changes) -> tuple[dict[str, AttributeValue], list[str]]:
    """Answer the new attributes and the keywords whose value is another one now.

    An empty value keeps, as an empty HL7 field does: only None says that something is to be forgotten.
    """
    merged, changed = dict(stored), []
    for keyword, value in changes.items():
        if value is None:
            if merged.pop(keyword, None) is not None:
                changed.append(keyword)
        elif value and merged.get(keyword) != value:
            merged[keyword] = value
            changed.append(keyword)
    return merged, changed


def change_text(stored: str | None, changes: Changes, keyword: str) -> str | None:
    """Answer the new value of an attribute that is a field of its record."""
    value = changes.get(keyword, "")
    if value is None:
        return None
    return str(value) if isinstance(value, str) and value else stored


def shown(value: AttributeValue | None) -> str:
    """Write a value short enough for an event."""
    if value is None or value in ("", ()):
        return "(empty)"
    text = value if isinstance(value, str) else "\\".join(v if isinstance(v, str) else v.value for v in value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"


def merge_sources(
    stored: Mapping[str, str], sources: Mapping[str, str], changed: list[str]
) -> dict[str, str]:
    """Answer where each value came from, after those of `changed` came from somewhere else."""
    merged = dict(stored)
    for keyword in changed:
        if keyword in sources:
            merged[keyword] = sources[keyword]
        else:
            merged.pop(keyword, None)
    return merged


def missing_type_1(entry: WorklistEntry) -> tuple[str, ...]:
    """List the keywords without which no response may carry the entry (PS3.4 table K.6-1, Type 1 and 1C)."""
    patient, procedure, step = entry.patient, entry.procedure, entry.step
    required = {
        "PatientName": patient.name,
        "PatientID": patient.patient_id,
        "StudyInstanceUID": procedure.study_instance_uid,
        "RequestedProcedureID": procedure.requested_procedure_id,
        "ScheduledProcedureStepID": step.scheduled_procedure_step_id,
        "ScheduledStationAETitle": step.station_ae_titles,
        "ScheduledProcedureStepStartDate": step.start_date,
        "ScheduledProcedureStepStartTime": step.start_time,
        "Modality": step.modality,
    }
    missing = [keyword for keyword, value in required.items() if not value]
    attributes = {"procedure": procedure.attributes, "step": step.attributes}
    for level, description, code in _EITHER:
        if not attributes[level].get(description) and not attributes[level].get(code):
            missing.append(description)
    return tuple(missing)
