"""Writes audit messages as XML by the schema of PS3.15 A.5.1."""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC
from xml.etree.ElementTree import Element, SubElement, tostring

from broker.domain.audit_message import AuditMessage, AuditSource, Code, Participant, ParticipantObject

LARGEST = 32_768
"""Octets every receiver takes (PS3.15 A.6); a message with its header is never larger."""
_HEADER = 1024
_MANY = 100
# What XML 1.0 (2.2) has no character for, and what would break a line of a log.
_NO_CHARACTER = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Longest texts, in characters."""

    text: int
    detail: int
    description: int


_BOUNDS = (_Bounds(400, 2000, 1000), _Bounds(100, 200, 200), _Bounds(32, 32, 32))
"""What is too large with the first is written with the next."""


def written(message: AuditMessage, source: AuditSource) -> str:
    """Answer the XML of a message, on one line."""
    for bounds in _BOUNDS:
        body = _Writer(bounds).write(message, source)
        if len(body.encode()) <= LARGEST - _HEADER:
            break
    return body


class _Writer:
    def __init__(self, bounds: _Bounds) -> None:
        self._bounds = bounds

    def write(self, message: AuditMessage, source: AuditSource) -> str:
        root = Element("AuditMessage")
        self._event(root, message)
        for participant in message.participants:
            self._participant(root, participant)
        self._source(root, source)
        for one in message.objects:
            self._object(root, one)
        body = tostring(root, encoding="unicode")
        return f'<?xml version="1.0" encoding="UTF-8"?>{body}'

    def _event(self, root: Element, message: AuditMessage) -> None:
        event = SubElement(
            root,
            "EventIdentification",
            EventActionCode=message.action.value,
            EventDateTime=message.at.astimezone(UTC).isoformat(timespec="milliseconds"),
            EventOutcomeIndicator=message.outcome.value,
        )
        _code(event, "EventID", message.event)
        for kind in message.types:
            _code(event, "EventTypeCode", kind)
        if message.description:
            description = SubElement(event, "EventOutcomeDescription")
            description.text = _clean(message.description, self._bounds.description)

    def _participant(self, root: Element, participant: Participant) -> None:
        attributes = {"UserID": self._text(participant.user_id)}
        if participant.alternative_user_id:
            attributes["AlternativeUserID"] = self._text(participant.alternative_user_id)
        if participant.user_name:
            attributes["UserName"] = self._text(participant.user_name)
        attributes["UserIsRequestor"] = "true" if participant.is_requestor else "false"
        if participant.address:
            attributes["NetworkAccessPointID"] = self._text(participant.address)
            attributes["NetworkAccessPointTypeCode"] = "2" if _is_address(participant.address) else "1"
        element = SubElement(root, "ActiveParticipant", attributes)
        for role in participant.roles:
            _code(element, "RoleIDCode", role)
        if participant.media is not None:
            _code(SubElement(element, "MediaIdentifier"), "MediaType", participant.media)

    def _source(self, root: Element, source: AuditSource) -> None:
        attributes = {"AuditEnterpriseSiteID": self._text(source.site)} if source.site else {}
        attributes["AuditSourceID"] = self._text(source.id)
        element = SubElement(root, "AuditSourceIdentification", attributes)
        SubElement(element, "AuditSourceTypeCode", {"csd-code": source.type})

    def _object(self, root: Element, one: ParticipantObject) -> None:
        attributes = {
            "ParticipantObjectID": self._text(one.id),
            "ParticipantObjectTypeCode": one.type.value,
        }
        if one.role is not None:
            attributes["ParticipantObjectTypeCodeRole"] = one.role.value
        element = SubElement(root, "ParticipantObjectIdentification", attributes)
        _code(element, "ParticipantObjectIDTypeCode", one.id_type)
        # The schema wants one of the two, whatever the table of the message says.
        if one.query is not None:
            SubElement(element, "ParticipantObjectQuery").text = b64encode(one.query).decode()
        else:
            SubElement(element, "ParticipantObjectName").text = self._text(one.name)
        for kind, value in one.details[:_MANY]:
            encoded = b64encode(_clean(value, self._bounds.detail).encode()).decode()
            SubElement(element, "ParticipantObjectDetail", type=self._text(kind), value=encoded)
        if one.accession_numbers or one.mpps or one.sop_classes:
            self._description(SubElement(element, "ParticipantObjectDescription"), one)

    def _description(self, description: Element, one: ParticipantObject) -> None:
        for uid in one.mpps[:_MANY]:
            SubElement(description, "MPPS", UID=self._text(uid))
        for number in one.accession_numbers[:_MANY]:
            SubElement(description, "Accession", Number=self._text(number))
        for uid, count in one.sop_classes[:_MANY]:
            attributes = {"UID": self._text(uid)} if uid else {}
            SubElement(description, "SOPClass", {**attributes, "NumberOfInstances": str(count)})

    def _text(self, text: str) -> str:
        return _clean(text, self._bounds.text)


def _code(parent: Element, tag: str, code: Code) -> None:
    attributes = {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning}
    SubElement(parent, tag, attributes)


def _clean(text: str, most: int) -> str:
    return _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", text[:most])


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
