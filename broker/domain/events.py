"""Events: every transition has a name and a one-line meaning, and is a row in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Subject(Enum):
    """What an event is about."""

    MESSAGE = "message"
    PATIENT = "patient"
    ORDER = "order"
    STEP = "step"
    PERFORMED_STEP = "performed step"
    INSTANCE = "instance"
    SERIES = "series"
    STUDY = "study"
    DELIVERY = "delivery"
    DESTINATION = "destination"
    DEVICE = "device"
    SYSTEM = "system"
    ACCOUNT = "account"
    TOKEN = "api token"
    CAPTURE = "capture"


class EventName(Enum):
    """Names of what happened; the comment of each is its meaning."""

    MESSAGE_RECEIVED = "message received"
    MESSAGE_REFUSED = "message refused"
    MESSAGE_PARKED = "message parked"  # understood but in conflict, or poisoned: a person decides
    MESSAGE_REPEATED = "message repeated"  # the stored answer was given again
    CONTROL_ID_REUSED = "control id reused"  # same MSH-10, other content
    PATIENT_CREATED = "patient created"
    PATIENT_UPDATED = "patient updated"
    PATIENT_MERGED = "patient merged"
    PATIENT_OVERLAY_SUSPECTED = "patient overlay suspected"
    ORDER_PLACED = "order placed"
    ORDER_CHANGED = "order changed"
    ORDER_STATUS_CHANGED = "order status changed"
    ORDER_INCOMPLETE = "order incomplete"  # stored, but not on the worklist until completed
    STEP_SCHEDULED = "step scheduled"
    STEP_CHANGED = "step changed"
    STEP_STATUS_CHANGED = "step status changed"
    WORKLIST_QUERIED = "worklist queried"
    MPPS_CREATED = "performed step created"
    MPPS_UPDATED = "performed step updated"
    MPPS_FINISHED = "performed step finished"
    MPPS_UNMATCHED = "performed step unmatched"
    MPPS_PATIENT_MISMATCH = "performed step patient mismatch"
    INSTANCE_RECEIVED = "instance received"
    INSTANCE_REPEATED = "instance repeated"
    INSTANCE_VERSION_RECEIVED = "instance version received"  # same UID, other content: both kept
    INSTANCE_JOINED = "instance joined to its order"
    IDENTITY_CONFLICT = "identity conflict"  # patient of the image is not the patient of the order
    ROUTED = "routed"
    UNROUTED = "unrouted"
    DELIVERY_CREATED = "delivery created"
    DELIVERY_COLLECTED = "delivery collected"  # its quiet period is over
    DELIVERY_RELEASED = "delivery released by a person"  # its quiet period was cut short
    DELIVERY_CLAIMED = "delivery claimed"
    DELIVERY_PROGRESSED = "delivery progressed"
    DELIVERY_DELIVERED = "delivery delivered"
    DELIVERY_RETRY = "delivery to be retried"
    DELIVERY_DIED = "delivery died"
    DELIVERY_RETRIED = "delivery retried by a person"
    DELIVERY_CANCELLED = "delivery cancelled by a person"
    DELIVERY_RETARGETED = (
        "delivery sent elsewhere by a person"  # what was missing goes to another destination
    )
    DELIVERY_PRIORITISED = "delivery priority changed by a person"
    DELIVERY_REOPENED = "delivery reopened"
    DELIVERY_LEASE_EXPIRED = "delivery lease expired"
    DESTINATION_FAILING = "destination failing"  # several tries in a row failed: the breaker is open
    DESTINATION_RECOVERED = "destination recovered"
    DESTINATION_PAUSED = "destination paused"
    DESTINATION_RESUMED = "destination resumed"
    DESTINATION_DRAINING = "destination draining"  # what waits is sent, what comes is held
    DESTINATION_DRAINED = "destination drained"  # nothing of what was to be sent is left
    DESTINATION_TESTED = "destination tested by a person"
    BULK_STARTED = "bulk operation started"
    BULK_ENDED = "bulk operation ended"
    BULK_STOPPED = "bulk operation stopped by a person"  # what it has done stays done
    DEVICE_REFUSED = "device refused"  # at most once an hour for the same title, address and reason
    DEVICE_ADMITTED = "device admitted by a person"  # for a time
    DEVICE_ADMISSION_ENDED = "device admission ended by a person"
    DEVICE_ADMISSION_OVER = "device admission over"  # its time had come
    CAPTURE_STARTED = "capture started by a person"  # what a device or sender says is written down for a time
    CAPTURE_STOPPED = "capture stopped by a person"
    CAPTURE_OVER = "capture over"  # its time had come
    CAPTURE_DOWNLOADED = "capture downloaded by a person"
    CAPTURE_DELETED = "capture deleted by a person"
    CAPTURE_EXPIRED = "capture expired"  # kept long enough, and removed
    CONFIGURATION_LOADED = "configuration loaded"  # a role runs on a version no role has run on before it
    CONFIGURATION_CHANGED = "configuration changed by a person"  # the site file is to hold another version
    CONFIGURATION_NOT_WRITTEN = "configuration not written"  # and could not be made to
    CONFIGURATION_RELOAD_ASKED = "configuration reload asked by a person"
    ALERT_RAISED = "alert raised"
    ALERT_ACKNOWLEDGED = "alert taken in hand by a person"
    ALERT_RECOVERED = "alert over"
    MAINTENANCE_PLANNED = "maintenance planned by a person"  # alerts about it are not told while it lasts
    MAINTENANCE_ENDED = "maintenance ended by a person"
    PROBE_STARTED = "synthetic exam started by a person"
    BACKUP_WRITTEN = "backup written"
    SUPPORT_BUNDLE_MADE = "support bundle made"  # left the house with whoever asked for it
    ACCOUNT_ADDED = "account added"
    ACCOUNT_CHANGED = "account changed"
    ACCOUNT_DISABLED = "account disabled"
    ACCOUNT_ENABLED = "account enabled"
    PASSWORD_CHANGED = "password changed"
    SIGNED_IN = "signed in"
    SIGNED_OUT = "signed out"
    SIGN_IN_REFUSED = "sign-in refused"
    TOKEN_ISSUED = "token issued"
    TOKEN_REVOKED = "token revoked"
    VIEWED = "viewed"  # a person or a program was shown patient data
    SEARCHED = "searched"
    AUDIT_DOWNLOADED = "audit downloaded"  # a part of the trail left the house with whoever asked for it
    AUDIT_READ = "audit trail read"
    STARTED = "started"  # a role of the broker
    STOPPED = "stopped"  # in order; one that died leaves nothing


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `details` holds wire facts and ids; who may read them is decided by the reader."""

    name: EventName
    subject: Subject
    subject_id: int | None = None
    study_instance_uid: str | None = None
    order: int | None = None
    actor: str = "broker"
    """A user name, a calling AE title, a sending application, or `broker`."""
    details: Mapping[str, str | int | float | bool | list[str] | None] = field(default_factory=dict)
