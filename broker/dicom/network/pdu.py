"""Read and write the PDUs of PS3.8 section 9.3, bounded, straight from bytes.

A peer decides every byte that is parsed here, so every length is checked against what is really there and
every count has a limit. Nothing is validated by `assert`, and nothing grows with what a peer claims.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from enum import IntEnum

APPLICATION_CONTEXT_UID = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_CLASS_UID = "2.25.146911022267588445945344764017409322084"
IMPLEMENTATION_VERSION = "WORKLISTBROKER01"  # PS3.7 D.3.3.2: at most 16 characters
PROTOCOL_VERSION = 1

HEADER_BYTES = 6  # type, reserved, length: every PDU begins so
PDV_HEADER_BYTES = 6  # length, context id, message control header
DATA_HEADER_BYTES = HEADER_BYTES + PDV_HEADER_BYTES
ASSOCIATE_FIXED_BYTES = 68  # what stands before the variable items of A-ASSOCIATE-RQ and -AC
MAX_CONTEXTS = 128  # odd ids from 1 to 255, PS3.8 9.3.2.2

COMMAND_BIT = 0x01  # message control header, PS3.8 E.2
LAST_BIT = 0x02


class PduType(IntEnum):
    """Name the seven PDU types of PS3.8 9.3.1."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


class ContextResult(IntEnum):
    """Say what became of a proposed presentation context (PS3.8 table 9-18)."""

    ACCEPTED = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class AbortSource(IntEnum):
    """Say who aborted (PS3.8 table 9-26)."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


class AbortReason(IntEnum):
    """Say why the service provider aborted (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class MalformedPdu(Exception):
    """The peer sent a PDU that PS3.8 does not allow."""

    def __init__(self, what: str, reason: AbortReason = AbortReason.INVALID_PARAMETER) -> None:
        super().__init__(what)
        self.what = what
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Rejection:
    """Refuse an association (PS3.8 table 9-21)."""

    result: int
    source: int
    reason: int

    @property
    def is_transient(self) -> bool:
        """Tell whether the peer is invited to try again."""
        return self.result == 2


NO_REASON_GIVEN = Rejection(1, 1, 1)
APPLICATION_CONTEXT_NOT_SUPPORTED = Rejection(1, 1, 2)
CALLING_AE_TITLE_NOT_RECOGNIZED = Rejection(1, 1, 3)
CALLED_AE_TITLE_NOT_RECOGNIZED = Rejection(1, 1, 7)
PROTOCOL_VERSION_NOT_SUPPORTED = Rejection(1, 2, 2)
TEMPORARY_CONGESTION = Rejection(2, 3, 1)
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2)


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """Propose one abstract syntax in some transfer syntaxes, under an odd id."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnsweredContext:
    """Answer one proposed context; the transfer syntax only counts when the result is ACCEPTED."""

    id: int
    result: int
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Roles:
    """Say which roles the association requestor takes for one SOP class (PS3.7 D.3.3.4)."""

    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociateRequest:
    """Hold what an A-ASSOCIATE-RQ says (PS3.8 9.3.2, PS3.7 D.3)."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[ProposedContext, ...]
    max_pdu_bytes: int = 0
    application_context: str = APPLICATION_CONTEXT_UID
    protocol_version: int = PROTOCOL_VERSION
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID
    implementation_version: str = IMPLEMENTATION_VERSION
    asynchronous_operations: tuple[int, int] | None = None
    roles: dict[str, Roles] = field(default_factory=dict)
    extended_negotiation: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociateAccept:
    """Hold what an A-ASSOCIATE-AC says (PS3.8 9.3.3, PS3.7 D.3)."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[AnsweredContext, ...]
    max_pdu_bytes: int = 0
    application_context: str = APPLICATION_CONTEXT_UID
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID
    implementation_version: str = IMPLEMENTATION_VERSION
    asynchronous_operations: tuple[int, int] | None = None
    roles: dict[str, Roles] = field(default_factory=dict)
    extended_negotiation: dict[str, bytes] = field(default_factory=dict)


_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*", re.ASCII)


def is_uid(text: str) -> bool:
    """Tell whether text is shaped like a UID (PS3.5 9.1): digits and single dots, at most 64 characters.

    A leading zero in a component is let pass: devices in the field make such UIDs and nothing breaks on them.
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def is_ae_title(text: str) -> bool:
    """Tell whether text may be an AE title (PS3.5 6.2): 1 to 16 printable ASCII characters, no backslash."""
    return 1 <= len(text) <= 16 and text.isascii() and text.isprintable() and "\\" not in text


_HEADER = struct.Struct(">BxI")
_ITEM = struct.Struct(">BxH")
_ASSOCIATE = struct.Struct(">HH16s16s32s")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_ROLE_TAIL = struct.Struct(">BB")
_WINDOW = struct.Struct(">HH")

_APPLICATION_CONTEXT = 0x10
_CONTEXT_RQ = 0x20
_CONTEXT_AC = 0x21
_ABSTRACT_SYNTAX = 0x30
_TRANSFER_SYNTAX = 0x40
_USER_INFORMATION = 0x50
_MAXIMUM_LENGTH = 0x51
_IMPLEMENTATION_CLASS = 0x52
_ASYNCHRONOUS = 0x53
_ROLE = 0x54
_IMPLEMENTATION_VERSION = 0x55
_EXTENDED = 0x56


def _text(raw: bytes) -> str:
    # Latin-1 cannot fail; what is not a UID or an AE title is refused by shape later. Some peers pad with NUL.
    return raw.rstrip(b"\0 ").decode("latin-1")


def _items(data: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """Split [start, end) into (type, first byte, past the last byte); every byte must belong to an item."""
    found: list[tuple[int, int, int]] = []
    at = start
    while at < end:
        if at + 4 > end:
            raise MalformedPdu("an item header is cut short")
        kind, length = _ITEM.unpack_from(data, at)
        at += 4
        if at + length > end:
            raise MalformedPdu("an item is longer than what holds it")
        found.append((kind, at, at + length))
        at += length
    return found


@dataclass(slots=True)
class _UserInformation:
    max_pdu_bytes: int = 0
    implementation_class_uid: str = ""
    implementation_version: str = ""
    asynchronous_operations: tuple[int, int] | None = None
    roles: dict[str, Roles] = field(default_factory=dict)
    extended_negotiation: dict[str, bytes] = field(default_factory=dict)


def _prefixed_uid(data: bytes, start: int, end: int) -> tuple[str, int]:
    if end - start < 2:
        raise MalformedPdu("a user information item is cut short")
    (length,) = _U16.unpack_from(data, start)
    if start + 2 + length > end:
        raise MalformedPdu("a UID is longer than its item")
    return _text(data[start + 2 : start + 2 + length]), start + 2 + length


def _read_user_information(data: bytes, start: int, end: int, into: _UserInformation) -> None:
    for kind, first, past in _items(data, start, end):
        if kind == _MAXIMUM_LENGTH:
            if past - first != 4:
                raise MalformedPdu("the maximum length is not four bytes")
            (into.max_pdu_bytes,) = _U32.unpack_from(data, first)
        elif kind == _IMPLEMENTATION_CLASS:
            into.implementation_class_uid = _text(data[first:past])[:64]
        elif kind == _IMPLEMENTATION_VERSION:
            into.implementation_version = _text(data[first:past])[:16]
        elif kind == _ASYNCHRONOUS:
            if past - first != 4:
                raise MalformedPdu("the asynchronous operations window is not four bytes")
            into.asynchronous_operations = _WINDOW.unpack_from(data, first)
        elif kind == _ROLE:
            uid, at = _prefixed_uid(data, first, past)
            if past - at != 2:
                raise MalformedPdu("a role selection item has no roles")
            scu, scp = _ROLE_TAIL.unpack_from(data, at)
            into.roles[uid] = Roles(scu=scu == 1, scp=scp == 1)
        elif kind == _EXTENDED:
            uid, at = _prefixed_uid(data, first, past)
            into.extended_negotiation[uid] = data[at:past]
        # PS3.8 9.3.1: items we do not know (user identity, common extended negotiation) are ignored


def parse_associate_request(data: bytes) -> AssociateRequest:
    """Parse a whole A-ASSOCIATE-RQ PDU, its header included."""
    version, called, calling, body = _associate_head(data)
    application_context = ""
    contexts: dict[int, ProposedContext] = {}
    information = _UserInformation()
    for kind, first, past in body:
        if kind == _CONTEXT_RQ:
            if past - first < 4:
                raise MalformedPdu("a presentation context is cut short")
            context_id = data[first]
            if context_id % 2 == 0 or context_id in contexts:
                raise MalformedPdu("a presentation context id is even or used twice")
            abstract_syntax = ""
            transfer_syntaxes: list[str] = []
            for sub, at, to in _items(data, first + 4, past):
                if sub == _TRANSFER_SYNTAX:
                    transfer_syntaxes.append(_text(data[at:to]))
                elif sub == _ABSTRACT_SYNTAX:
                    abstract_syntax = _text(data[at:to])
            contexts[context_id] = ProposedContext(context_id, abstract_syntax, tuple(transfer_syntaxes))
        elif kind == _APPLICATION_CONTEXT:
            application_context = _text(data[first:past])
        elif kind == _USER_INFORMATION:
            _read_user_information(data, first, past, information)
    return AssociateRequest(
        called_ae_title=called,
        calling_ae_title=calling,
        contexts=tuple(contexts.values()),
        max_pdu_bytes=information.max_pdu_bytes,
        application_context=application_context,
        protocol_version=version,
        implementation_class_uid=information.implementation_class_uid,
        implementation_version=information.implementation_version,
        asynchronous_operations=information.asynchronous_operations,
        roles=information.roles,
        extended_negotiation=information.extended_negotiation,
    )


def parse_associate_accept(data: bytes) -> AssociateAccept:
    """Parse a whole A-ASSOCIATE-AC PDU, its header included."""
    _version, called, calling, body = _associate_head(data)
    application_context = ""
    contexts: dict[int, AnsweredContext] = {}
    information = _UserInformation()
    for kind, first, past in body:
        if kind == _CONTEXT_AC:
            if past - first < 4:
                raise MalformedPdu("a presentation context is cut short")
            context_id, result = data[first], data[first + 2]
            if context_id % 2 == 0 or context_id in contexts:
                raise MalformedPdu("a presentation context id is even or used twice")
            transfer_syntax = ""
            # PS3.8 9.3.3.2: of a refused context the transfer syntax is not significant, it may even be garbage
            if result == ContextResult.ACCEPTED:
                for sub, at, to in _items(data, first + 4, past):
                    if sub == _TRANSFER_SYNTAX:
                        transfer_syntax = _text(data[at:to])
            contexts[context_id] = AnsweredContext(context_id, result, transfer_syntax)
        elif kind == _APPLICATION_CONTEXT:
            application_context = _text(data[first:past])
        elif kind == _USER_INFORMATION:
            _read_user_information(data, first, past, information)
    return AssociateAccept(
        called_ae_title=called,
        calling_ae_title=calling,
        contexts=tuple(contexts.values()),
        max_pdu_bytes=information.max_pdu_bytes,
        application_context=application_context,
        implementation_class_uid=information.implementation_class_uid,
        implementation_version=information.implementation_version,
        asynchronous_operations=information.asynchronous_operations,
        roles=information.roles,
        extended_negotiation=information.extended_negotiation,
    )


def _associate_head(data: bytes) -> tuple[int, str, str, list[tuple[int, int, int]]]:
    if len(data) < HEADER_BYTES + ASSOCIATE_FIXED_BYTES:
        raise MalformedPdu("an A-ASSOCIATE PDU is cut short")
    version, _reserved, called, calling, _reserved_too = _ASSOCIATE.unpack_from(data, HEADER_BYTES)
    body = _items(data, HEADER_BYTES + ASSOCIATE_FIXED_BYTES, len(data))
    if sum(1 for kind, _first, _past in body if kind in (_CONTEXT_RQ, _CONTEXT_AC)) > MAX_CONTEXTS:
        raise MalformedPdu("there are more presentation contexts than ids")
    return version, _text(called).strip(), _text(calling).strip(), body


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _uid_item(kind: int, uid: str) -> bytes:
    return _item(kind, uid.encode("latin-1"))


def _encode_user_information(message: AssociateRequest | AssociateAccept) -> bytes:
    parts = [
        _item(_MAXIMUM_LENGTH, _U32.pack(message.max_pdu_bytes)),
        _uid_item(_IMPLEMENTATION_CLASS, message.implementation_class_uid),
    ]
    if message.asynchronous_operations is not None:
        parts.append(_item(_ASYNCHRONOUS, _WINDOW.pack(*message.asynchronous_operations)))
    for uid, roles in message.roles.items():
        name = uid.encode("latin-1")
        parts.append(_item(_ROLE, _U16.pack(len(name)) + name + _ROLE_TAIL.pack(roles.scu, roles.scp)))
    if message.implementation_version:
        parts.append(_uid_item(_IMPLEMENTATION_VERSION, message.implementation_version))
    for uid, information in message.extended_negotiation.items():
        name = uid.encode("latin-1")
        parts.append(_item(_EXTENDED, _U16.pack(len(name)) + name + information))
    return _item(_USER_INFORMATION, b"".join(parts))


def _encode_associate(
    kind: PduType, message: AssociateRequest | AssociateAccept, *, version: int, contexts: list[bytes]
) -> bytes:
    called = message.called_ae_title.encode("latin-1").ljust(16)[:16]
    calling = message.calling_ae_title.encode("latin-1").ljust(16)[:16]
    body = b"".join(
        (
            _ASSOCIATE.pack(version, 0, called, calling, bytes(32)),
            _uid_item(_APPLICATION_CONTEXT, message.application_context),
            *contexts,
            _encode_user_information(message),
        )
    )
    return _HEADER.pack(kind, len(body)) + body


def encode_associate_request(request: AssociateRequest) -> bytes:
    """Encode an A-ASSOCIATE-RQ PDU."""
    contexts = [
        _item(
            _CONTEXT_RQ,
            b"".join(
                (
                    bytes((context.id, 0, 0, 0)),
                    _uid_item(_ABSTRACT_SYNTAX, context.abstract_syntax),
                    *(_uid_item(_TRANSFER_SYNTAX, uid) for uid in context.transfer_syntaxes),
                )
            ),
        )
        for context in request.contexts
    ]
    return _encode_associate(
        PduType.ASSOCIATE_RQ, request, version=request.protocol_version, contexts=contexts
    )


def encode_associate_accept(accept: AssociateAccept) -> bytes:
    """Encode an A-ASSOCIATE-AC PDU."""
    contexts = [
        _item(
            _CONTEXT_AC,
            bytes((context.id, 0, context.result, 0)) + _uid_item(_TRANSFER_SYNTAX, context.transfer_syntax),
        )
        for context in accept.contexts
    ]
    return _encode_associate(PduType.ASSOCIATE_AC, accept, version=PROTOCOL_VERSION, contexts=contexts)


def encode_reject(rejection: Rejection) -> bytes:
    """Encode an A-ASSOCIATE-RJ PDU."""
    fields = bytes((0, rejection.result, rejection.source, rejection.reason))
    return _HEADER.pack(PduType.ASSOCIATE_RJ, 4) + fields


def encode_abort(source: int, reason: int) -> bytes:
    """Encode an A-ABORT PDU."""
    return _HEADER.pack(PduType.ABORT, 4) + bytes((0, 0, source, reason))


RELEASE_RQ = _HEADER.pack(PduType.RELEASE_RQ, 4) + bytes(4)
RELEASE_RP = _HEADER.pack(PduType.RELEASE_RP, 4) + bytes(4)

_DATA = struct.Struct(">BxIIBB")


def data_header(context_id: int, control: int, length: int) -> bytes:
    """Make the twelve bytes that stand before `length` payload bytes sent as one PDV in one P-DATA-TF."""
    return _DATA.pack(PduType.P_DATA_TF, length + PDV_HEADER_BYTES, length + 2, context_id, control)
