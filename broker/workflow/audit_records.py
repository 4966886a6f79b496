"""Audit messages of records that changed and of whoever looked at them (PS3.15 A.5.3.2, A.5.3.10, A.5.3.13 to 15)."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64
from contextlib import suppress
from datetime import datetime

from broker.domain import audit_message as codes
from broker.domain.audit_message import (
    Action,
    AuditMessage,
    ObjectRole,
    ObjectType,
    Outcome,
    ParticipantObject,
)
from broker.domain.events import Subject
from broker.workflow.audit_participants import (
    Ourselves,
    Translation,
    number_of,
    patient,
    study_and_patient,
    text_of,
)
from broker.workflow.audit_port import TrailEvent

WORKLIST_SOP_CLASS = "1.2.840.10008.5.1.4.31"
_QUERY = 8192
"""Octets of a query that are told."""


def order_record(action: Action) -> Translation:
    """Translate a change of an order."""
    return lambda event, us: AuditMessage(
        codes.ORDER_RECORD, action, event.at, us.sender(event), (patient(event, told=True),)
    )


def patient_record(action: Action) -> Translation:
    """Translate a change of a patient."""
    return lambda event, us: AuditMessage(
        codes.PATIENT_RECORD, action, event.at, us.sender(event), (patient(event, told=True),)
    )


def procedure_record(action: Action) -> Translation:
    """Translate a change of a scheduled or performed step."""
    return lambda event, us: AuditMessage(
        codes.PROCEDURE_RECORD,
        action,
        event.at,
        us.sender(event),
        study_and_patient(event) if event.study_instance_uid else (patient(event, told=True),),
    )


def merged(event: TrailEvent, us: Ourselves) -> AuditMessage:
    """Report the patient that is gone, the one that stays, and the orders that moved."""
    if event.subject == Subject.ORDER.value:
        return AuditMessage(
            codes.ORDER_RECORD, Action.UPDATE, event.at, us.sender(event), (patient(event, told=True),)
        )
    is_gone = event.subject_id is not None and event.subject_id == number_of(event, "absorbed")
    return AuditMessage(
        codes.PATIENT_RECORD,
        Action.DELETE if is_gone else Action.UPDATE,
        event.at,
        us.sender(event),
        (patient(event, told=True),),
    )


def viewed(event: TrailEvent, us: Ourselves) -> AuditMessage:
    """Report who was shown a patient: by objects of DICOM where there are any."""
    participants = (us.person(event), us.process())
    if event.study_instance_uid and event.subject != Subject.ORDER.value:
        kind, objects = codes.INSTANCES_ACCESSED, study_and_patient(event)
    elif event.subject == Subject.PATIENT.value:
        kind, objects = codes.PATIENT_RECORD, (patient(event, told=True),)
    else:
        kind, objects = codes.ORDER_RECORD, (patient(event, told=True),)
    return AuditMessage(kind, Action.READ, event.at, participants, objects)


def searched(event: TrailEvent, us: Ourselves) -> AuditMessage:
    """Report what somebody searched for."""
    criteria = ParticipantObject(
        text_of(event, "page") or "/find",
        codes.SEARCH_CRITERIA,
        ObjectType.SYSTEM,
        ObjectRole.QUERY,
        query=text_of(event, "text").encode("utf-8", "replace")[:_QUERY],
    )
    participants = (us.person(event), us.process(codes.DESTINATION_ROLE))
    return AuditMessage(codes.QUERY, Action.EXECUTE, event.at, participants, (criteria,))


def queried(event: TrailEvent, us: Ourselves) -> AuditMessage:
    """Answer the query of a worklist; its identifier is there when the site has collectors (A.5.3.10)."""
    data = b""
    with suppress(NotBase64):
        data = b64decode(text_of(event, "identifier"), validate=True)[:_QUERY]
    details = [("TransferSyntax", text_of(event, "transfer_syntax") or "1.2.840.10008.1.2")]
    details += [
        (key, value) for key in ("keys", "answers", "association", "cut_at") if (value := text_of(event, key))
    ]
    query = ParticipantObject(
        WORKLIST_SOP_CLASS,
        codes.SOP_CLASS_UID,
        ObjectType.SYSTEM,
        ObjectRole.REPORT,
        query=data,
        details=tuple(details),
    )
    at = event.at
    with suppress(ValueError):
        asked = datetime.fromisoformat(text_of(event, "asked_at"))
        at = asked if asked.tzinfo else at
    status = text_of(event, "status")
    return AuditMessage(
        codes.QUERY,
        Action.EXECUTE,
        at,
        (us.peer(event, codes.SOURCE_ROLE), us.process(codes.DESTINATION_ROLE)),
        (query,),
        outcome=Outcome.SUCCESS if status in {"", "0000", "FE00"} else Outcome.MINOR_FAILURE,
        description="" if status in {"", "0000"} else f"status {status}",
    )


def trail_read(event: TrailEvent, us: Ourselves) -> AuditMessage:
    """Report who read or verified the trail, or took a part of it away."""
    told = (
        "how",
        "asked",
        "events",
        "actor",
        "patient",
        "order",
        "study_instance_uid",
        "what",
        "since",
        "until",
    )
    asked = [(key, value) for key in told if (value := text_of(event, key))]
    log = ParticipantObject(
        us.trail,
        codes.URI,
        ObjectType.SYSTEM,
        ObjectRole.SECURITY_RESOURCE,
        name="Security Audit Log",
        details=tuple(asked),
    )
    return AuditMessage(codes.AUDIT_LOG_USED, Action.READ, event.at, (us.person(event), us.process()), (log,))
