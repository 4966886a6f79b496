"""Audit messages of security: who signed in, what was refused, what was set differently (PS3.15 A.5.3.1, 11 and 12)."""

from __future__ import annotations

from dataclasses import replace

from broker.domain import audit_message as codes
from broker.domain.audit_message import (
    Action,
    AuditMessage,
    Code,
    ObjectRole,
    ObjectType,
    Outcome,
    ParticipantObject,
)
from broker.workflow.audit_participants import Ourselves, Translation, text_of
from broker.workflow.audit_port import TrailEvent


def authentication(kind: Code, outcome: Outcome) -> Translation:
    """Translate who came in, went, or was not let in."""

    def translate(event: TrailEvent, us: Ourselves) -> AuditMessage:
        return AuditMessage(
            codes.USER_AUTHENTICATION,
            Action.EXECUTE,
            event.at,
            (us.person(event), us.process()),
            types=(kind,),
            outcome=outcome,
            description=text_of(event, "reason") if outcome is not Outcome.SUCCESS else "",
        )

    return translate


def activity(kind: Code) -> Translation:
    """Translate a role that started or stopped."""

    def translate(event: TrailEvent, us: Ourselves) -> AuditMessage:
        role, host = text_of(event, "role") or "broker", text_of(event, "host") or us.node
        ours = us.process(codes.APPLICATION)
        process = replace(
            ours, user_id=f"{role}@{host}", user_name=f"Worklist Broker {text_of(event, 'version')}"
        )
        return AuditMessage(codes.APPLICATION_ACTIVITY, Action.EXECUTE, event.at, (process,), types=(kind,))

    return translate


def alert(kind: Code, outcome: Outcome = Outcome.SUCCESS, *, by_people_only: bool = False) -> Translation:
    """Translate a change of settings or a use of a function that not everybody has."""

    def translate(event: TrailEvent, us: Ourselves) -> AuditMessage | None:
        if by_people_only and event.actor == "broker":
            return None
        return _security(event, us, kind, outcome)

    return translate


def _security(event: TrailEvent, us: Ourselves, kind: Code, outcome: Outcome) -> AuditMessage:
    told = "; ".join(
        f"{key.replace('_', ' ')} {value}"
        for key in sorted(event.details)
        if key != "address" and (value := text_of(event, key))
    )
    subject = ParticipantObject(
        _subject_of(event),
        codes.URI,
        ObjectType.SYSTEM,
        ObjectRole.SECURITY_RESOURCE,
        details=(("Alert Description", f"{event.name}: {told}" if told else event.name),),
    )
    return AuditMessage(
        codes.SECURITY_ALERT,
        Action.EXECUTE,
        event.at,
        (us.process(), us.person(event, is_requestor=False))
        if event.actor != "broker"
        else (us.process(is_requestor=True),),
        (subject,),
        types=(kind,),
        outcome=outcome,
    )


def _subject_of(event: TrailEvent) -> str:
    """Answer a URI of what an alert is about."""
    name = text_of(event, "account") or text_of(event, "destination") or str(event.subject_id or "")
    kind = event.subject.replace(" ", "-")
    return f"urn:worklist-broker:{kind}:{name}" if name else f"urn:worklist-broker:{kind}"


def refused(event: TrailEvent, us: Ourselves) -> AuditMessage:
    """Report a node that was not let in; as often as the event says."""
    address = text_of(event, "address") or event.actor
    told = f"{text_of(event, 'reason')} ({text_of(event, 'wire')})"
    node = ParticipantObject(
        address,
        codes.NODE_ID,
        ObjectType.SYSTEM,
        ObjectRole.SECURITY_RESOURCE,
        name=event.actor,
        details=(
            ("Alert Description", told),
            ("called AE title", text_of(event, "called")),
            ("times", text_of(event, "times") or "1"),
        ),
    )
    return AuditMessage(
        codes.SECURITY_ALERT,
        Action.EXECUTE,
        event.at,
        (us.process(), us.peer(event, is_requestor=False)),
        (node,),
        types=(codes.NODE_AUTHENTICATION,),
        outcome=Outcome.MINOR_FAILURE,
        description=told,
    )


def alert_raised(event: TrailEvent, us: Ourselves) -> AuditMessage | None:
    """Report that the trail itself was changed; other alerts are of operation, not of security."""
    if event.details.get("kind") != "audit":
        return None
    return _security(event, us, codes.SECURITY_CONFIGURATION, Outcome.MAJOR_FAILURE)


def untranslated(event: TrailEvent, us: Ourselves, defect: str) -> AuditMessage:
    """Report that there was an event, where no more can be said of it."""
    subject = ParticipantObject(
        f"urn:worklist-broker:event:{event.number}",
        codes.URI,
        ObjectType.SYSTEM,
        ObjectRole.SECURITY_RESOURCE,
        details=(
            ("Alert Description", f"event {event.number} could not be translated: {event.name}"),
            ("defect", defect),
        ),
    )
    return AuditMessage(
        codes.SECURITY_ALERT,
        Action.EXECUTE,
        event.at,
        (us.process(is_requestor=True),),
        (subject,),
        types=(codes.USE_OF_RESTRICTED_FUNCTION,),
        outcome=Outcome.MINOR_FAILURE,
    )
