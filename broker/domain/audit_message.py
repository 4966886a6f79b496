"""A DICOM audit message (PS3.15 A.5): who did what to which objects, in the words of the standard."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value."""

    value: str
    meaning: str
    system: str = "DCM"


class Action(Enum):
    """EventActionCode."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class Outcome(Enum):
    """EventOutcomeIndicator."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"
    MAJOR_FAILURE = "12"


class ObjectType(Enum):
    """ParticipantObjectTypeCode."""

    PERSON = "1"
    SYSTEM = "2"


class ObjectRole(Enum):
    """ParticipantObjectTypeCodeRole (PS3.15 table A.5.1.2.2)."""

    PATIENT = "1"
    REPORT = "3"
    MASTER_FILE = "5"
    SECURITY_RESOURCE = "13"
    JOB = "20"
    QUERY = "24"


# EventID (PS3.15 A.5.3, CID 400)
APPLICATION_ACTIVITY = Code("110100", "Application Activity")
AUDIT_LOG_USED = Code("110101", "Audit Log Used")
BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
EXPORT = Code("110106", "Export")
ORDER_RECORD = Code("110109", "Order Record")
PATIENT_RECORD = Code("110110", "Patient Record")
PROCEDURE_RECORD = Code("110111", "Procedure Record")
QUERY = Code("110112", "Query")
SECURITY_ALERT = Code("110113", "Security Alert")
USER_AUTHENTICATION = Code("110114", "User Authentication")

# EventTypeCode (CID 401)
APPLICATION_START = Code("110120", "Application Start")
APPLICATION_STOP = Code("110121", "Application Stop")
LOGIN = Code("110122", "Login")
LOGOUT = Code("110123", "Logout")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
NETWORK_CONFIGURATION = Code("110128", "Network Configuration")
SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
SOFTWARE_CONFIGURATION = Code("110131", "Software Configuration")
USE_OF_RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")
SECURITY_ROLES_CHANGED = Code("110136", "Security Roles Changed")
USER_ATTRIBUTES_CHANGED = Code("110137", "User Security Attributes Changed")

# RoleIDCode (CID 402)
APPLICATION = Code("110150", "Application")
DESTINATION_ROLE = Code("110152", "Destination Role ID")
SOURCE_ROLE = Code("110153", "Source Role ID")
DESTINATION_MEDIA = Code("110154", "Destination Media")

# MediaType (CID 405)
URI_MEDIA = Code("110037", "URI")
FILM = Code("110010", "Film")

# ParticipantObjectIDTypeCode (CID 404 and PS3.15 table A.5.1.2.4)
STUDY_INSTANCE_UID = Code("110180", "Study Instance UID")
SOP_CLASS_UID = Code("110181", "SOP Class UID")
NODE_ID = Code("110182", "Node ID")
PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
REPORT_NUMBER = Code("9", "Report Number", "RFC-3881")
SEARCH_CRITERIA = Code("10", "Search Criteria", "RFC-3881")
USER_IDENTIFIER = Code("11", "User Identifier", "RFC-3881")
URI = Code("12", "URI", "RFC-3881")


@dataclass(frozen=True, slots=True)
class Participant:
    """ActiveParticipant: a person, a process or a node that took part."""

    user_id: str
    is_requestor: bool = False
    roles: tuple[Code, ...] = ()
    alternative_user_id: str = ""
    user_name: str = ""
    address: str = ""
    """NetworkAccessPointID; its type is read from its form."""
    media: Code | None = None


@dataclass(frozen=True, slots=True)
class ParticipantObject:
    """ParticipantObjectIdentification: what it was about."""

    id: str
    id_type: Code
    type: ObjectType
    role: ObjectRole | None = None
    name: str = ""
    query: bytes | None = None
    """Stands in the place of the name."""
    details: tuple[tuple[str, str], ...] = ()
    accession_numbers: tuple[str, ...] = ()
    mpps: tuple[str, ...] = ()
    sop_classes: tuple[tuple[str, int], ...] = ()
    """UID, empty when it is not known, and number of instances."""


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """One message; who reports it is added by whoever sends it."""

    event: Code
    action: Action
    at: datetime
    participants: tuple[Participant, ...]
    objects: tuple[ParticipantObject, ...] = ()
    types: tuple[Code, ...] = ()
    outcome: Outcome = Outcome.SUCCESS
    description: str = ""
    """EventOutcomeDescription."""


@dataclass(frozen=True, slots=True)
class AuditSource:
    """AuditSourceIdentification: who reports."""

    id: str
    site: str = ""
    type: str = "4"
    """Application server process (PS3.15 table A.5.1.2.1)."""
