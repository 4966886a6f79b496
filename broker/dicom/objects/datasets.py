"""Turns a worklist entry into data elements (PS3.4 table K.6-1).

Which attributes an entry has, where they stand and what an answer says when one is not known, is the table in
this file. Text is encoded in UTF-8 here; answers for other character sets are made from it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from pydicom.datadict import dictionary_VR, tag_for_keyword

from broker.dicom.objects.elements import CHARACTER_VRS, Element, Elements
from broker.domain.matching import attributes_of
from broker.domain.orders import AttributeValue, Code, EntityIdentifier, PatientIdentifier, WorklistEntry
from broker.domain.steps import StepStatus

SPECIFIC_CHARACTER_SET = 0x00080005
SPS_SEQUENCE = 0x00400100
_MAX_CODE_VALUE = 16
_SPS_DESCRIPTION = "ScheduledProcedureStepDescription"
DISCONTINUED_FLAG = "DISCONTINUED: "


class Return(Enum):
    """Return key types (PS3.4 K.6.1.2.2)."""

    REQUIRED = "1"
    EMPTY_IF_UNKNOWN = "2"
    OPTIONAL = "3"


@dataclass(frozen=True, slots=True)
class Attribute:
    """Describes one attribute an answer may hold."""

    keyword: str
    tag: int
    vr: str
    returned: Return


def _attributes(text: str) -> tuple[Attribute, ...]:
    found = []
    for line in text.split():
        keyword, _, kind = line.partition(":")
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise LookupError(f"{keyword} is no DICOM keyword")
        found.append(Attribute(keyword, int(tag), dictionary_VR(tag)[:2], Return(kind or "3")))
    return tuple(found)


STEP_ATTRIBUTES = _attributes("""
    ScheduledStationAETitle:1 ScheduledProcedureStepStartDate:1 ScheduledProcedureStepStartTime:1
    ScheduledProcedureStepEndDate ScheduledProcedureStepEndTime Modality:1 ScheduledPerformingPhysicianName:2
    ScheduledPerformingPhysicianIdentificationSequence ScheduledProcedureStepDescription:2
    ScheduledProtocolCodeSequence:2 ScheduledProcedureStepID:1 ScheduledStationName:2
    ScheduledProcedureStepLocation:2 PreMedication:2 RequestedContrastAgent:2 ScheduledProcedureStepStatus
    CommentsOnTheScheduledProcedureStep
""")
"""What the one item of Scheduled Procedure Step Sequence may hold."""

ROOT_ATTRIBUTES = _attributes("""
    StudyDate StudyTime AccessionNumber:2 IssuerOfAccessionNumberSequence ReferringPhysicianName:2
    ReferringPhysicianIdentificationSequence TimezoneOffsetFromUTC InstitutionName InstitutionCodeSequence
    AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence ReferencedStudySequence:2
    ReferencedPatientSequence:2
    PatientName:1 PatientID:1 IssuerOfPatientID IssuerOfPatientIDQualifiersSequence TypeOfPatientID
    PatientBirthDate:2 PatientBirthTime PatientSex:2 OtherPatientIDs OtherPatientNames OtherPatientIDsSequence
    PatientBirthName PatientAge PatientSize PatientWeight:2 PatientAddress PatientMotherBirthName MilitaryRank
    MedicalAlerts:2 Allergies:2 CountryOfResidence RegionOfResidence PatientTelephoneNumbers EthnicGroup
    Occupation SmokingStatus AdditionalPatientHistory PregnancyStatus:2 LastMenstrualDate
    PatientReligiousPreference PatientSpeciesDescription PatientSexNeutered PatientBreedDescription
    PatientBreedCodeSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization PatientComments
    BodyPartExamined StudyInstanceUID:1 Laterality ImageLaterality
    RequestingPhysician:2 RequestingPhysicianIdentificationSequence RequestingService
    RequestedProcedureDescription:2 RequestedProcedureCodeSequence:2
    AdmissionID:2 IssuerOfAdmissionID IssuerOfAdmissionIDSequence ServiceEpisodeID ServiceEpisodeDescription
    RouteOfAdmissions AdmittingDate AdmittingTime SpecialNeeds:2 CurrentPatientLocation:2
    PatientInstitutionResidence PatientState:2 VisitComments
    OrderPlacerIdentifierSequence OrderFillerIdentifierSequence
    RequestedProcedureID:1 ReasonForTheRequestedProcedure RequestedProcedurePriority:2
    PatientTransportArrangements:2 RequestedProcedureLocation ConfidentialityCode ReportingPriority
    ReasonForRequestedProcedureCodeSequence NamesOfIntendedRecipientsOfResults RequestedProcedureComments
    ReasonForTheImagingServiceRequest IssueDateOfImagingServiceRequest IssueTimeOfImagingServiceRequest
    OrderEnteredBy OrderEntererLocation OrderCallbackPhoneNumber PlacerOrderNumberImagingServiceRequest
    FillerOrderNumberImagingServiceRequest ImagingServiceRequestComments
    ConfidentialityConstraintOnPatientDataDescription:2 WorklistLabel
""")
"""What may stand beside it."""

KNOWN_TAGS = {attribute.tag: attribute for attribute in (*ROOT_ATTRIBUTES, *STEP_ATTRIBUTES)}
STEP_TAGS = frozenset(attribute.tag for attribute in STEP_ATTRIBUTES)
_KNOWN = {attribute.keyword: attribute for attribute in KNOWN_TAGS.values()}


@lru_cache(maxsize=1024)
def attribute_named(keyword: str) -> Attribute | None:
    """Answer an attribute of an entry; whatever else a mapping file fills is answered when it is asked for."""
    known = _KNOWN.get(keyword)
    if known is not None:
        return known
    tag = tag_for_keyword(keyword)
    return None if tag is None else Attribute(keyword, int(tag), dictionary_VR(tag)[:2], Return.OPTIONAL)


def element_of(attribute: Attribute, value: AttributeValue) -> Element | None:
    """Write an attribute of an entry, text in UTF-8; nothing when there is nothing to say."""
    if isinstance(value, str):
        if attribute.vr == "SQ":
            return None
        return text_element(attribute.vr, (value,))
    if attribute.vr == "SQ":
        codes = tuple(code_item(item) for item in value if isinstance(item, Code))
        return Element("SQ", b"", codes) if codes else None
    return text_element(attribute.vr, [item for item in value if isinstance(item, str)])


def values_of(entry: WorklistEntry) -> dict[str, AttributeValue]:
    """Answer every attribute of an entry that has a value, by keyword."""
    values = attributes_of(entry)
    if entry.step.status is StepStatus.DISCONTINUED and isinstance(text := values.get(_SPS_DESCRIPTION), str):
        # Discontinued with images: it stays on the list until a person decides.
        values[_SPS_DESCRIPTION] = (DISCONTINUED_FLAG + text)[:64]
    return values


def text_element(vr: str, values: Sequence[str]) -> Element | None:
    """Encode text values in UTF-8; nothing when there is no text."""
    if vr in ("LT", "ST", "UT"):
        text = "\r\n".join(values)
    elif len(values) == 1:
        text = _one_value(values[0])
    else:
        text = "\\".join(map(_one_value, values))
    if not text.strip(" \\"):
        return None
    if vr in ("US", "SS"):
        try:
            return Element(vr, struct.pack("<H" if vr == "US" else "<h", int(text)))
        except (ValueError, struct.error):
            return None
    encoded = text.encode("utf-8" if vr in CHARACTER_VRS else "ascii", errors="ignore")
    return Element(vr, encoded) if encoded else None


def _one_value(text: str) -> str:
    # A backslash separates values (PS3.5 6.2), so it cannot be part of one.
    return text.replace("\\", "/").replace("\n", " ").strip()


def code_item(code: Code) -> Elements:
    """Write a code item (PS3.3 table 8.8-1): which attribute holds the value depends on its form."""
    item: dict[int, Element] = {}
    value_tag = 0x00080100
    if code.value.startswith(("urn:", "http://", "https://")):
        value_tag = 0x00080120
    elif len(code.value) > _MAX_CODE_VALUE:
        value_tag = 0x00080119
    for tag, vr, text in (
        (value_tag, {0x00080100: "SH", 0x00080119: "UC", 0x00080120: "UR"}[value_tag], code.value),
        (0x00080102, "SH", code.scheme),
        (0x00080103, "SH", code.version or ""),
        (0x00080104, "LO", code.meaning or code.value),
    ):
        element = text_element(vr, [text])
        if element is not None:
            item[tag] = element
    return item


# --- attributes that are not one stored value ------------------------------------------------------------


def _identifier_items(values: list[tuple[int, str, str | None]]) -> Elements:
    item: dict[int, Element] = {}
    for tag, vr, text in values:
        element = text_element(vr, [text]) if text else None
        if element is not None:
            item[tag] = element
    return item


def _entity_sequence(
    namespace: str | None, universal_id: str | None, universal_id_type: str | None
) -> Element | None:
    """Write an HL7 authority as items of the HL7v2 hierarchic designator macro (PS3.3 10.17)."""
    item = _identifier_items(
        [
            (0x00400031, "UT", namespace),
            (0x00400032, "UT", universal_id),
            (0x00400033, "CS", universal_id_type if universal_id else None),
        ]
    )
    return Element("SQ", b"", (item,)) if item else None


def _order_identifier(identifier: EntityIdentifier | None) -> Element | None:
    if identifier is None:
        return None
    return _entity_sequence(identifier.namespace, identifier.universal_id, identifier.universal_id_type)


def _accession_issuer(entry: WorklistEntry) -> Element | None:
    return _entity_sequence(entry.order.issuer_of_accession_number, None, None)


def _other_ids(entry: WorklistEntry) -> Element | None:
    items = tuple(_patient_id_item(identifier) for identifier in entry.patient.other_ids)
    return Element("SQ", b"", items) if items else None


def _patient_id_item(identifier: PatientIdentifier) -> Elements:
    return _identifier_items(
        [
            (0x00100020, "LO", identifier.value),
            (0x00100021, "LO", identifier.issuer),
            (0x00100022, "CS", "TEXT"),
        ]
    )


def _other_ids_as_text(entry: WorklistEntry) -> Element | None:
    """Answer the retired (0010,1000) from its successor."""
    values = [identifier.value for identifier in entry.patient.other_ids]
    return text_element("LO", values) if values else None


SPECIAL: dict[int, Callable[[WorklistEntry], Element | None]] = {
    _KNOWN[keyword].tag: special
    for keyword, special in (
        ("OtherPatientIDsSequence", _other_ids),
        ("OtherPatientIDs", _other_ids_as_text),
        ("IssuerOfAccessionNumberSequence", _accession_issuer),
        ("OrderPlacerIdentifierSequence", lambda entry: _order_identifier(entry.order.placer_order_number)),
        ("OrderFillerIdentifierSequence", lambda entry: _order_identifier(entry.order.filler_order_number)),
    )
}
"""Tag -> what writes it."""
