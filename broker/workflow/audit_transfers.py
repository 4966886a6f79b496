"""Audit messages of images that came and went, and of who handled their deliveries (PS3.15 A.5.3.3, 5, 6 and 7)."""

from __future__ import annotations

from broker.domain import audit_message as codes
from broker.domain.audit_message import Action, AuditMessage, Outcome, ParticipantObject
from broker.workflow.audit_participants import (
    Ourselves,
    Translation,
    number_of,
    patient,
    study,
    study_and_patient,
    text_of,
)
from broker.workflow.audit_port import TrailEvent

_FILES = {"print", "folder"}


def received(action: Action) -> Translation:
    """Translate images that came in."""

    def translate(event: TrailEvent, us: Ourselves) -> AuditMessage:
        count = number_of(event, "instances") or 1
        participants = (us.peer(event, codes.SOURCE_ROLE), us.process(codes.DESTINATION_ROLE))
        objects = study_and_patient(event, instances=count)
        return AuditMessage(codes.INSTANCES_TRANSFERRED, action, event.at, participants, objects)

    return translate


def sending(event: TrailEvent, us: Ourselves) -> AuditMessage | None:
    """Report that images are about to be sent."""
    if event.destination_kind != "dicom":
        return None  # A.5.3.3 is of transfers between nodes; an export is reported when it is done
    participants = (
        us.process(codes.SOURCE_ROLE, is_requestor=True),
        us.destination(event, codes.DESTINATION_ROLE),
    )
    objects = study_and_patient(event, instances=event.instances)
    return AuditMessage(codes.BEGIN_TRANSFERRING, Action.EXECUTE, event.at, participants, objects)


def sent(outcome: Outcome) -> Translation:
    """Translate what became of a delivery."""

    def translate(event: TrailEvent, us: Ourselves) -> AuditMessage:
        reason = "" if outcome is Outcome.SUCCESS else text_of(event, "reason") or event.name
        if event.destination_kind in _FILES:
            return AuditMessage(
                codes.EXPORT,
                Action.READ,
                event.at,
                (us.process(codes.SOURCE_ROLE, is_requestor=True), us.media(event)),
                study_and_patient(event, instances=event.instances),
                outcome=outcome,
                description=reason,
            )
        participants = (
            us.process(codes.SOURCE_ROLE, is_requestor=True),
            us.destination(event, codes.DESTINATION_ROLE),
        )
        if event.destination_kind == "dicom":
            kind, action = codes.INSTANCES_TRANSFERRED, Action.CREATE
            objects = study_and_patient(event, instances=event.instances)
        else:
            # What an HL7 message tells of an order leaves the house.
            kind, action, objects = codes.ORDER_RECORD, Action.READ, (patient(event, told=True),)
        return AuditMessage(
            kind, action, event.at, participants, objects, outcome=outcome, description=reason
        )

    return translate


def handled(event: TrailEvent, us: Ourselves) -> AuditMessage:
    """Answer what a person did to a delivery: these objects were made use of."""
    participants = (us.person(event), us.process())
    if event.study_instance_uid:
        objects: tuple[ParticipantObject, ...] = (study(event), patient(event))
        return AuditMessage(codes.INSTANCES_ACCESSED, Action.UPDATE, event.at, participants, objects)
    return AuditMessage(
        codes.ORDER_RECORD, Action.UPDATE, event.at, participants, (patient(event, told=True),)
    )
