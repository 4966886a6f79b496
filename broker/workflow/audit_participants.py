"""Who took part in an event and what it was about, as an audit message names them (PS3.15 A.5.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from broker.domain.audit_message import (
    DESTINATION_MEDIA,
    FILM,
    PATIENT_NUMBER,
    STUDY_INSTANCE_UID,
    URI_MEDIA,
    AuditMessage,
    Code,
    ObjectRole,
    ObjectType,
    Participant,
    ParticipantObject,
)
from broker.workflow.audit_port import TrailEvent

UNKNOWN = "(unknown)"
"""Identifiers are mandatory; this stands where the trail knows none."""
NOBODY = frozenset({"broker", ""})
"""Actors that are this broker itself."""
_DETAILS = 40


@dataclass(frozen=True, slots=True)
class Node:
    """Where a destination is."""

    address: str = ""
    ae_title: str = ""


@dataclass(frozen=True, slots=True)
class Ourselves:
    """Who reports."""

    node: str
    """Name of this machine."""
    ae_title: str
    trail: str = "urn:worklist-broker:audit"
    """URI of the trail."""
    destinations: Mapping[str, Node] = field(default_factory=dict)

    def process(self, *roles: Code, is_requestor: bool = False) -> Participant:
        """Answer this broker as a participant."""
        return Participant(
            f"worklist-broker@{self.node}",
            is_requestor,
            roles,
            f"AETITLES={self.ae_title}",
            "Worklist Broker",
            self.node,
        )

    def person(self, event: TrailEvent, *, is_requestor: bool = True) -> Participant:
        """Answer whoever acted on the pages, by a token or on the command line."""
        if event.actor in NOBODY:
            return self.process(is_requestor=is_requestor)
        login = event.actor.partition(" (")[0]
        address = text_of(event, "address")
        return Participant(
            f"{login}@{self.node}",
            is_requestor,
            user_name=event.actor,
            address=self.node if address in {"", "local"} else address,
        )

    def peer(self, event: TrailEvent, *roles: Code, is_requestor: bool = True) -> Participant:
        """Answer the device or sender an event came from."""
        if event.actor in NOBODY:
            return self.process(*roles, is_requestor=is_requestor)
        return Participant(
            event.actor, is_requestor, roles, f"AETITLES={event.actor}", "", text_of(event, "address")
        )

    def sender(self, event: TrailEvent) -> tuple[Participant, ...]:
        """Answer who made a record change: a sending application, a device or a person, and this broker."""
        if event.actor in NOBODY:
            return (self.process(is_requestor=True),)
        return (
            Participant(event.actor, True, user_name=event.actor, address=text_of(event, "address")),
            self.process(),
        )

    def destination(self, event: TrailEvent, *roles: Code) -> Participant:
        """Answer where a delivery goes."""
        name = event.destination or text_of(event, "destination") or UNKNOWN
        node = self.destinations.get(name, Node())
        titles = f"AETITLES={node.ae_title}" if node.ae_title else ""
        return Participant(name, False, roles, titles, "", node.address)

    def media(self, event: TrailEvent) -> Participant:
        """Answer the film or the folder a delivery goes to."""
        name = event.destination or UNKNOWN
        node = self.destinations.get(name, Node())
        kind = FILM if event.destination_kind == "print" else URI_MEDIA
        titles = f"AETITLES={node.ae_title}" if node.ae_title else ""
        return Participant(name, False, (DESTINATION_MEDIA,), titles, "", node.address, kind)


Translation = Callable[[TrailEvent, Ourselves], AuditMessage | None]
"""Makes the message of an event; None: there is nothing to report."""


def patient(event: TrailEvent, *, told: bool = False) -> ParticipantObject:
    """Answer the patient; with what else is `told` of the event."""
    known = event.patient
    key = UNKNOWN
    if known is not None and known.patient_id:
        # HL7 CX: the assigning authority is its fourth component.
        key = f"{known.patient_id}^^^{known.issuer}" if known.issuer else known.patient_id
    return ParticipantObject(
        key,
        PATIENT_NUMBER,
        ObjectType.PERSON,
        ObjectRole.PATIENT,
        name=known.name if known else "",
        details=_told(event) if told else (),
    )


def study(event: TrailEvent, *, instances: int | None = None) -> ParticipantObject:
    """Answer the study; number of objects and accession number come together (PS3.15 table A.5.2-1)."""
    return ParticipantObject(
        event.study_instance_uid or UNKNOWN,
        STUDY_INSTANCE_UID,
        ObjectType.SYSTEM,
        ObjectRole.REPORT,
        details=_told(event),
        accession_numbers=(event.accession_number,)
        if instances is not None and event.accession_number
        else (),
        mpps=(event.mpps,) if event.mpps else (),
        sop_classes=((event.sop_class_uid, instances),) if instances is not None else (),
    )


def study_and_patient(event: TrailEvent, *, instances: int | None = None) -> tuple[ParticipantObject, ...]:
    """Answer both."""
    return (study(event, instances=instances), patient(event))


def text_of(event: TrailEvent, key: str) -> str:
    """Answer a detail of an event as text; empty when it has none."""
    value = event.details.get(key)
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(one) for one in value[:_DETAILS])
    return str(value)


def number_of(event: TrailEvent, key: str) -> int | None:
    """Answer a detail of an event that is a number."""
    value = event.details.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _told(event: TrailEvent) -> tuple[tuple[str, str], ...]:
    """Answer the event's own words: its name, its numbers, and why."""
    told = [("event", event.name)]
    if event.order is not None:
        told.append(("order", str(event.order)))
    if event.accession_number:
        told.append(("accession number", event.accession_number))
    more = ("page", "how", "why", "reason", "series_instance_uid", "sop_instance_uid", "attempt")
    told += [(key.replace("_", " "), value) for key in more if (value := text_of(event, key))]
    return tuple(told)
