"""Read and write DIMSE commands (PS3.7 section 9, 10 and annex E) and cut messages into PDVs.

A command set is small, always Implicit VR Little Endian, and decoded here in one pass with a limit. A data set
is never looked into.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from broker.dicom.network.pdu import COMMAND_BIT, LAST_BIT, PDV_HEADER_BYTES, data_header
from broker.dicom.network.upper_layer import DataReceived

MAX_COMMAND_BYTES: Final = 64 * 1024
NO_DATA_SET: Final = 0x0101
_REMEMBERED_BYTES: Final = 128
_MAX_TEXT_BYTES: Final = 64  # PS3.7 C.4.2: an error comment is LO
_RESPONSE_BIT: Final = 0x8000
_UNLIMITED_PDU_BYTES: Final = 128 * 1024  # what we send at once to a peer that sets no maximum


class CommandField(IntEnum):
    """Name the requests and responses of PS3.7 table E.1-1."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_GET_RSP = 0x8010
    C_FIND_RQ = 0x0020
    C_FIND_RSP = 0x8020
    C_MOVE_RQ = 0x0021
    C_MOVE_RSP = 0x8021
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_GET_RQ = 0x0110
    N_GET_RSP = 0x8110
    N_SET_RQ = 0x0120
    N_SET_RSP = 0x8120
    N_ACTION_RQ = 0x0130
    N_ACTION_RSP = 0x8130
    N_CREATE_RQ = 0x0140
    N_CREATE_RSP = 0x8140
    N_DELETE_RQ = 0x0150
    N_DELETE_RSP = 0x8150
    C_CANCEL_RQ = 0x0FFF

    @property
    def is_response(self) -> bool:
        """Tell whether this answers a request."""
        return bool(self & _RESPONSE_BIT)

    @property
    def response(self) -> CommandField:
        """Return the field that answers this request."""
        return CommandField(self | _RESPONSE_BIT)

    @property
    def is_composite(self) -> bool:
        """Tell whether this belongs to the C- services."""
        return not self & 0x0100 or self is CommandField.C_CANCEL_RQ


class Priority(IntEnum):
    """Name the priorities of PS3.7 table E.1-1."""

    LOW = 0x0002
    MEDIUM = 0x0000
    HIGH = 0x0001


class MalformedCommand(Exception):
    """The peer sent a command set that PS3.7 does not allow."""


class Command(NamedTuple):
    """Hold one command set, a request or a response; absent elements are None. To be made by keywords."""

    field: CommandField
    message_id: int | None = None
    message_id_being_responded_to: int | None = None
    affected_sop_class_uid: str | None = None
    requested_sop_class_uid: str | None = None
    affected_sop_instance_uid: str | None = None
    requested_sop_instance_uid: str | None = None
    has_data_set: bool = False
    priority: int | None = None
    status: int | None = None
    offending_elements: tuple[int, ...] = ()
    error_comment: str | None = None
    error_id: int | None = None
    event_type_id: int | None = None
    action_type_id: int | None = None
    attribute_identifier_list: tuple[int, ...] = ()
    move_destination: str | None = None
    move_originator_ae_title: str | None = None
    move_originator_message_id: int | None = None
    remaining_suboperations: int | None = None
    completed_suboperations: int | None = None
    failed_suboperations: int | None = None
    warning_suboperations: int | None = None

    @property
    def sop_class_uid(self) -> str | None:
        """Return the SOP class, whichever of the two elements this command uses."""
        return self.affected_sop_class_uid or self.requested_sop_class_uid

    @property
    def sop_instance_uid(self) -> str | None:
        """Return the SOP instance, whichever of the two elements this command uses."""
        return self.affected_sop_instance_uid or self.requested_sop_instance_uid


_COMMAND_FIELD = 0x0100
_DATA_SET_TYPE = 0x0800
# element number in group 0000 → attribute of Command, in the order they are written
_US: Final = {
    0x0110: "message_id",
    0x0120: "message_id_being_responded_to",
    0x0700: "priority",
    0x0900: "status",
    0x0903: "error_id",
    0x1002: "event_type_id",
    0x1008: "action_type_id",
    0x1020: "remaining_suboperations",
    0x1021: "completed_suboperations",
    0x1022: "failed_suboperations",
    0x1023: "warning_suboperations",
    0x1031: "move_originator_message_id",
}
_UI: Final = {
    0x0002: "affected_sop_class_uid",
    0x0003: "requested_sop_class_uid",
    0x1000: "affected_sop_instance_uid",
    0x1001: "requested_sop_instance_uid",
}
_AT: Final = {0x0901: "offending_elements", 0x1005: "attribute_identifier_list"}
_TEXT: Final = {0x0600: "move_destination", 0x0902: "error_comment", 0x1030: "move_originator_ae_title"}
_ELEMENTS: Final = sorted(  # PS3.7 6.3.1: elements stand in tag order
    [
        *_US.items(),
        *_UI.items(),
        *_AT.items(),
        *_TEXT.items(),
        (_COMMAND_FIELD, "field"),
        (_DATA_SET_TYPE, "has_data_set"),
    ]
)

_ELEMENT = struct.Struct("<HHI")
_US_ELEMENT = struct.Struct("<HHIH")
_UL_ELEMENT = struct.Struct("<HHII")
_VALUE_US = struct.Struct("<H")
_VALUE_AT = struct.Struct("<HH")


def decode_command(data: bytes) -> Command:
    """Decode a whole command set."""
    values: dict[str, object] = {}
    field_value: int | None = None
    has_data_set = False
    at, end = 0, len(data)
    while at < end:
        if at + 8 > end:
            raise MalformedCommand("an element is cut short")
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += 8
        if group != 0:
            raise MalformedCommand("an element is not of group 0000")
        if at + length > end:
            raise MalformedCommand("an element is longer than the command set")
        if element in _US or element in (_COMMAND_FIELD, _DATA_SET_TYPE):
            if length == 2:
                (number,) = _VALUE_US.unpack_from(data, at)
                if element == _COMMAND_FIELD:
                    field_value = number
                elif element == _DATA_SET_TYPE:
                    has_data_set = number != NO_DATA_SET
                else:
                    values[_US[element]] = number
            elif length:
                raise MalformedCommand("a number is not two bytes")
        elif element in _UI:
            values[_UI[element]] = data[at : at + length].rstrip(b"\0 ").decode("latin-1")
        elif element in _AT:
            if length % 4:
                raise MalformedCommand("an attribute tag is cut short")
            values[_AT[element]] = tuple(
                (group_ << 16) | element_
                for group_, element_ in _VALUE_AT.iter_unpack(data[at : at + length])
            )
        elif element in _TEXT:
            values[_TEXT[element]] = data[at : at + length].strip(b"\0 ").decode("latin-1")
        at += length
    if field_value is None:
        raise MalformedCommand("there is no command field")
    try:
        field = CommandField(field_value)
    except ValueError:
        raise MalformedCommand("the command field is not known") from None
    return Command(field=field, has_data_set=has_data_set, **values)  # type: ignore[arg-type]


_remembered = lru_cache(maxsize=256)(decode_command)
"""What names no instance: echoes and queries, of which a device sends the same bytes all day."""


class CommandCollector:
    """Put a command set together from its fragments, bounded."""

    __slots__ = ("_context_id", "_parts", "_size")

    def __init__(self) -> None:
        self._context_id = 0
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def is_collecting(self) -> bool:
        """Tell whether a command set is half here."""
        return bool(self._parts)

    def feed(self, received: DataReceived) -> tuple[int, Command] | None:
        """Take a fragment; return the context id and the command once the last one has come."""
        if not received.is_command:
            raise MalformedCommand("a data set fragment came where a command was due")
        if self._parts and received.context_id != self._context_id:
            raise MalformedCommand("a command changes its presentation context")
        self._size += len(received.data)
        if self._size > MAX_COMMAND_BYTES:
            raise MalformedCommand("a command set is longer than the limit")
        self._context_id = received.context_id
        self._parts.append(bytes(received.data))
        if not received.is_last:
            return None
        encoded = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        decoded = _remembered(encoded) if len(encoded) <= _REMEMBERED_BYTES else decode_command(encoded)
        return received.context_id, decoded


def encode_command(command: Command) -> bytes:
    """Encode a command set with its group length."""
    parts: list[bytes] = []
    for element, name in _ELEMENTS:
        value = getattr(command, name)
        if value is None or value == ():
            continue
        if element == _DATA_SET_TYPE:
            parts.append(_US_ELEMENT.pack(0, element, 2, 0x0001 if value else NO_DATA_SET))
        elif element in _US or element == _COMMAND_FIELD:
            parts.append(_US_ELEMENT.pack(0, element, 2, value))
        elif element in _UI:
            parts.append(_padded(element, value.encode("latin-1"), b"\0"))
        elif element in _AT:
            tags = b"".join(_VALUE_AT.pack(tag >> 16, tag & 0xFFFF) for tag in value)
            parts.append(_padded(element, tags, b"\0"))
        else:
            parts.append(_padded(element, value.encode("ascii", "replace")[:_MAX_TEXT_BYTES], b" "))
    body = b"".join(parts)
    return _UL_ELEMENT.pack(0, 0, 4, len(body)) + body


def _padded(element: int, value: bytes, filler: bytes) -> bytes:
    if len(value) % 2:
        value += filler
    return _ELEMENT.pack(0, element, len(value)) + value


def largest_payload(peer_max_pdu_bytes: int) -> int:
    """Return how many payload bytes fit into one P-DATA-TF for this peer."""
    return (peer_max_pdu_bytes or _UNLIMITED_PDU_BYTES) - PDV_HEADER_BYTES


def message_pdus(
    context_id: int, command: bytes, data_set: bytes | None, *, payload_bytes: int
) -> list[bytes]:
    """Cut a message into P-DATA-TF PDUs, one PDV each, the command in PDUs of its own.

    PS3.8 allows both fragments in one PDU; devices are known to read only the first.
    """
    pdus = _fragments(context_id, command, COMMAND_BIT, payload_bytes)
    if data_set is not None:
        pdus += _fragments(context_id, data_set, 0, payload_bytes)
    return pdus


def _fragments(context_id: int, payload: bytes, kind: int, payload_bytes: int) -> list[bytes]:
    size = len(payload)
    if size <= payload_bytes:
        return [data_header(context_id, kind | LAST_BIT, size) + payload]
    pdus = []
    for at in range(0, size, payload_bytes):
        piece = payload[at : at + payload_bytes]
        control = kind | LAST_BIT if at + payload_bytes >= size else kind
        pdus.append(data_header(context_id, control, len(piece)) + piece)
    return pdus
