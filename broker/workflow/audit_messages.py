"""What an event of the trail is as a DICOM audit message (PS3.15 A.5.3).

Every event has an entry here or stands in NOT_REPORTED, with those that only accompany another one or say what this
broker decided for itself. A condition the standard has no message for is the nearest one it has.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.domain import audit_message as codes
from broker.domain.audit_message import Action, AuditMessage, Outcome
from broker.domain.events import EventName
from broker.workflow.audit_alerts import activity, alert, alert_raised, authentication, refused
from broker.workflow.audit_participants import Ourselves, Translation
from broker.workflow.audit_port import TrailEvent
from broker.workflow.audit_records import (
    merged,
    order_record,
    patient_record,
    procedure_record,
    queried,
    searched,
    trail_read,
    viewed,
)
from broker.workflow.audit_transfers import handled, received, sending, sent


def message_of(event: TrailEvent, us: Ourselves) -> AuditMessage | None:
    """Answer the audit message of an event; None when there is nothing to report."""
    try:
        translation = TRANSLATIONS.get(EventName(event.name))
    except ValueError:  # written by a version that knew more, or less
        return None
    return translation(event, us) if translation else None


TRANSLATIONS: Mapping[EventName, Translation] = {
    EventName.STARTED: activity(codes.APPLICATION_START),
    EventName.STOPPED: activity(codes.APPLICATION_STOP),
    EventName.PATIENT_CREATED: patient_record(Action.CREATE),
    EventName.PATIENT_UPDATED: patient_record(Action.UPDATE),
    EventName.PATIENT_MERGED: merged,
    EventName.ORDER_PLACED: order_record(Action.CREATE),
    EventName.ORDER_CHANGED: order_record(Action.UPDATE),
    EventName.ORDER_STATUS_CHANGED: order_record(Action.UPDATE),
    EventName.STEP_SCHEDULED: procedure_record(Action.CREATE),
    EventName.STEP_CHANGED: procedure_record(Action.UPDATE),
    EventName.STEP_STATUS_CHANGED: procedure_record(Action.UPDATE),
    EventName.MPPS_CREATED: procedure_record(Action.CREATE),
    EventName.MPPS_UPDATED: procedure_record(Action.UPDATE),
    EventName.MPPS_FINISHED: procedure_record(Action.UPDATE),
    EventName.WORKLIST_QUERIED: queried,
    EventName.INSTANCE_RECEIVED: received(Action.CREATE),
    EventName.INSTANCE_VERSION_RECEIVED: received(Action.CREATE),
    EventName.INSTANCE_REPEATED: received(Action.READ),  # held already, nothing changed (A.5.3.7)
    EventName.DELIVERY_CLAIMED: sending,
    EventName.DELIVERY_DELIVERED: sent(Outcome.SUCCESS),
    EventName.DELIVERY_RETRY: sent(Outcome.MINOR_FAILURE),
    EventName.DELIVERY_DIED: sent(Outcome.SERIOUS_FAILURE),
    EventName.DELIVERY_RELEASED: handled,
    EventName.DELIVERY_RETRIED: handled,
    EventName.DELIVERY_CANCELLED: handled,
    EventName.DELIVERY_RETARGETED: handled,
    EventName.DELIVERY_PRIORITISED: handled,
    EventName.DESTINATION_PAUSED: alert(codes.NETWORK_CONFIGURATION, by_people_only=True),
    EventName.DESTINATION_RESUMED: alert(codes.NETWORK_CONFIGURATION, by_people_only=True),
    EventName.DESTINATION_DRAINING: alert(codes.NETWORK_CONFIGURATION, by_people_only=True),
    EventName.DESTINATION_TESTED: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.BULK_STARTED: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.BULK_STOPPED: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.BACKUP_WRITTEN: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.CAPTURE_STARTED: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.CAPTURE_STOPPED: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.CAPTURE_OVER: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.CAPTURE_DOWNLOADED: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.CAPTURE_DELETED: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.CAPTURE_EXPIRED: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.PROBE_STARTED: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.SUPPORT_BUNDLE_MADE: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.DEVICE_REFUSED: refused,
    EventName.DEVICE_ADMITTED: alert(codes.SECURITY_CONFIGURATION),
    EventName.DEVICE_ADMISSION_ENDED: alert(codes.SECURITY_CONFIGURATION),
    EventName.DEVICE_ADMISSION_OVER: alert(codes.SECURITY_CONFIGURATION),
    EventName.CONFIGURATION_LOADED: alert(codes.SOFTWARE_CONFIGURATION),
    EventName.CONFIGURATION_CHANGED: alert(codes.SOFTWARE_CONFIGURATION),
    EventName.CONFIGURATION_NOT_WRITTEN: alert(codes.SOFTWARE_CONFIGURATION),
    EventName.CONFIGURATION_RELOAD_ASKED: alert(codes.USE_OF_RESTRICTED_FUNCTION),
    EventName.ALERT_RAISED: alert_raised,
    EventName.ACCOUNT_ADDED: alert(codes.USER_ATTRIBUTES_CHANGED),
    EventName.ACCOUNT_CHANGED: alert(codes.SECURITY_ROLES_CHANGED),
    EventName.ACCOUNT_DISABLED: alert(codes.USER_ATTRIBUTES_CHANGED),
    EventName.ACCOUNT_ENABLED: alert(codes.USER_ATTRIBUTES_CHANGED),
    EventName.PASSWORD_CHANGED: alert(codes.USER_ATTRIBUTES_CHANGED),
    EventName.TOKEN_ISSUED: alert(codes.USER_ATTRIBUTES_CHANGED),
    EventName.TOKEN_REVOKED: alert(codes.USER_ATTRIBUTES_CHANGED),
    EventName.SIGNED_IN: authentication(codes.LOGIN, Outcome.SUCCESS),
    EventName.SIGNED_OUT: authentication(codes.LOGOUT, Outcome.SUCCESS),
    EventName.SIGN_IN_REFUSED: authentication(codes.LOGIN, Outcome.MINOR_FAILURE),
    EventName.VIEWED: viewed,
    EventName.SEARCHED: searched,
    EventName.AUDIT_READ: trail_read,
    EventName.AUDIT_DOWNLOADED: trail_read,
}

NOT_REPORTED = frozenset(
    {
        # Messages: what they change is reported of patients, orders and steps; these change nothing.
        EventName.MESSAGE_RECEIVED,
        EventName.MESSAGE_REFUSED,
        EventName.MESSAGE_PARKED,
        EventName.MESSAGE_REPEATED,
        EventName.CONTROL_ID_REUSED,
        # Beside another event of the same record.
        EventName.PATIENT_OVERLAY_SUSPECTED,
        EventName.ORDER_INCOMPLETE,
        EventName.MPPS_UNMATCHED,
        EventName.MPPS_PATIENT_MISMATCH,
        EventName.INSTANCE_JOINED,
        EventName.IDENTITY_CONFLICT,
        # Decided here; what becomes of it is reported when it is sent.
        EventName.ROUTED,
        EventName.UNROUTED,
        EventName.DELIVERY_CREATED,
        EventName.DELIVERY_COLLECTED,
        EventName.DELIVERY_PROGRESSED,
        EventName.DELIVERY_REOPENED,
        EventName.DELIVERY_LEASE_EXPIRED,
        # Of operation.
        EventName.DESTINATION_FAILING,
        EventName.DESTINATION_RECOVERED,
        EventName.DESTINATION_DRAINED,
        EventName.BULK_ENDED,
        EventName.ALERT_ACKNOWLEDGED,
        EventName.ALERT_RECOVERED,
        EventName.MAINTENANCE_PLANNED,
        EventName.MAINTENANCE_ENDED,
    }
)
