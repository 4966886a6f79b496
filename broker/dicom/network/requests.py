"""Decide what a request is answered before, instead of and after a service: PS3.7 annex C."""

from __future__ import annotations

import struct
import traceback
from functools import lru_cache
from typing import Final

import structlog

from broker.dicom.network.dimse import Command, CommandField, encode_command
from broker.dicom.network.negotiation import AgreedContext
from broker.dicom.network.pdu import is_uid
from broker.dicom.network.service import ONLY_STATUS, Request, Response
from broker.errors import BrokerError

log = structlog.get_logger(__name__)

PROCESSING_FAILURE: Final = 0x0110
INVALID_SOP_INSTANCE: Final = 0x0117
NO_SUCH_SOP_CLASS: Final = 0x0118
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
UNRECOGNIZED_OPERATION: Final = 0x0211
RESOURCE_LIMITATION: Final = 0x0213
OUT_OF_RESOURCES: Final = 0xA700
UNABLE_TO_PROCESS_INTERNAL: Final = 0xC103  # of the Cxxx range C-FIND, C-MOVE and C-GET have for failures

_QUERIES: Final = frozenset({CommandField.C_FIND_RQ, CommandField.C_MOVE_RQ, CommandField.C_GET_RQ})
_MESSAGE_ID_ELEMENT: Final = struct.pack("<HHI", 0x0000, 0x0120, 2)
_MESSAGE_ID: Final = struct.Struct("<H")
_GROUP_LENGTH: Final = struct.Struct("<HHII")
_INSTANCE_HEADER: Final = struct.Struct("<HHI")
# PS3.7 10.1.5: N-CREATE and N-EVENT-REPORT name the affected instance, the others the requested one
_NEEDS_INSTANCE: Final = frozenset(
    {
        CommandField.C_STORE_RQ,
        CommandField.N_EVENT_REPORT_RQ,
        CommandField.N_GET_RQ,
        CommandField.N_SET_RQ,
        CommandField.N_ACTION_RQ,
        CommandField.N_DELETE_RQ,
    }
)


def refusal_of(command: Command, agreed: AgreedContext) -> Response | None:
    """Return why no service should see this request, or None."""
    offer = agreed.offer
    if command.field not in offer.operations:
        return Response(UNRECOGNIZED_OPERATION)
    named = command.sop_class_uid
    if named != agreed.context.abstract_syntax and named not in offer.sop_classes:
        composite = command.field.is_composite
        return Response(SOP_CLASS_NOT_SUPPORTED if composite else NO_SUCH_SOP_CLASS)
    instance = command.sop_instance_uid
    if instance:
        # A UID that is not one must not get any further: it might end in a path, a query or a log.
        if not is_uid(instance):
            return Response(INVALID_SOP_INSTANCE, error_comment="The SOP Instance UID is not valid")
    elif command.field in _NEEDS_INSTANCE:
        return Response(INVALID_SOP_INSTANCE, error_comment="The SOP Instance UID is missing")
    return None


def tell_refusal(request: Request, refusal: Response) -> None:
    """Log that no service saw a request, and why: of what the peer said only what has been checked."""
    log.warning(
        "request refused",
        association=request.peer.association_id,
        peer=request.peer.address,
        calling_ae_title=request.peer.calling_ae_title,
        operation=request.command.field.name,
        status=f"{refusal.status:04X}",
        reason=refusal.error_comment,
    )


def too_large(command: Command) -> Response:
    """Refuse a data set that is longer than the offer allows."""
    status = OUT_OF_RESOURCES if command.field.is_composite else RESOURCE_LIMITATION
    return Response(status, error_comment="The data set is longer than the limit")


def failure_of(error: Exception, command: Command | None, *, association_id: str) -> Response:
    """Log what a service raised, without its text, and return what the peer is told.

    The text of an exception may hold a patient's name (a value that did not parse, an SQL statement's
    parameters), so only its type and the places it passed are logged.
    """
    operation = command.field.name if command is not None else "abandon"
    if isinstance(error, BrokerError):
        log.info(
            "request refused", association=association_id, operation=operation, error=type(error).__name__
        )
    else:
        log.error(
            "service failed",
            association=association_id,
            operation=operation,
            error=type(error).__name__,
            where=[f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)],
        )
    status = error.dimse_status if isinstance(error, BrokerError) else PROCESSING_FAILURE
    if command is not None and command.field in _QUERIES and status == PROCESSING_FAILURE:
        status = UNABLE_TO_PROCESS_INTERNAL
    comment = "Processing failure"
    if isinstance(error, BrokerError):
        comment = (type(error).__doc__ or comment).strip().partition("\n")[0]
    return Response(status, error_comment=comment)


def response_command(request: Command, response: Response) -> Command:
    """Make the response's command set: the request's identifiers and the service's answer."""
    instance = response.affected_sop_instance_uid
    if instance is None and request.field not in _QUERIES:
        instance = request.sop_instance_uid
    return Command(
        field=request.field.response,
        message_id_being_responded_to=request.message_id,
        affected_sop_class_uid=request.sop_class_uid,
        affected_sop_instance_uid=instance if instance and is_uid(instance) else None,
        has_data_set=response.data_set is not None,
        status=response.status,
        offending_elements=response.offending_elements,
        error_comment=response.error_comment,
        error_id=response.error_id,
        event_type_id=_echoed(response.event_type_id, request.event_type_id),
        action_type_id=_echoed(response.action_type_id, request.action_type_id),
        attribute_identifier_list=response.attribute_identifier_list,
        remaining_suboperations=response.remaining_suboperations,
        completed_suboperations=response.completed_suboperations,
        failed_suboperations=response.failed_suboperations,
        warning_suboperations=response.warning_suboperations,
    )


def encoded_response(request: Command, response: Response) -> bytes:
    """Encode the response's command set; where it says nothing but a status, from what was encoded before."""
    named, message_id = request.sop_class_uid, request.message_id
    if (
        response[2:] == ONLY_STATUS
        and message_id is not None
        and request.event_type_id is None
        and request.action_type_id is None
        and named
        and is_uid(named)
    ):
        before, after = _around_message_id(
            request.field, named, response.status, has_data_set=response.data_set is not None
        )
        body = before + _MESSAGE_ID.pack(message_id) + after
        instance = request.sop_instance_uid
        if instance and request.field not in _QUERIES and is_uid(instance):
            value = instance.encode("ascii") + b"\0" * (len(instance) % 2)
            # The element with the highest tag of all that stand here: the last one (PS3.7 6.3.1).
            body += _INSTANCE_HEADER.pack(0x0000, 0x1000, len(value)) + value
        return _GROUP_LENGTH.pack(0x0000, 0x0000, 4, len(body)) + body
    return encode_command(response_command(request, response))


@lru_cache(maxsize=256)
def _around_message_id(
    field: CommandField, sop_class_uid: str, status: int, *, has_data_set: bool
) -> tuple[bytes, bytes]:
    """Encode a response without its group length, and cut it where the message id being responded to stands."""
    encoded = encode_command(
        Command(
            field=field.response,
            message_id_being_responded_to=0,
            affected_sop_class_uid=sop_class_uid,
            has_data_set=has_data_set,
            status=status,
        )
    )[_GROUP_LENGTH.size :]
    at = encoded.index(_MESSAGE_ID_ELEMENT) + len(_MESSAGE_ID_ELEMENT)
    return encoded[:at], encoded[at + _MESSAGE_ID.size :]


def _echoed(answered: int | None, asked: int | None) -> int | None:
    return asked if answered is None else answered
