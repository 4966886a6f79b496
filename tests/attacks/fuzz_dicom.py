"""DICOM under generated input: PDUs, commands, both ends of an association, and what is sent over them."""

from __future__ import annotations

import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from broker.dicom.network import pdu
from broker.dicom.network.client import ClientAssociation, Timeouts
from broker.dicom.network.dimse import (
    Command,
    CommandCollector,
    CommandField,
    MalformedCommand,
    decode_command,
    encode_command,
)
from broker.dicom.network.failures import AssociationError
from broker.dicom.network.negotiation import Offers, any_storage, negotiate
from broker.dicom.network.requests import refusal_of, response_command
from broker.dicom.network.service import CloseReason, Response
from broker.dicom.network.states import Role, State
from broker.dicom.network.upper_layer import (
    AssociationRequested,
    DataReceived,
    PduLimits,
    PeerViolated,
    ReleaseRequested,
    UpperLayer,
)
from broker.dicom.network.verification import verification_offer
from tests.attacks.fuzz_engine import Target
from tests.dicom_conversation import (
    ABORT,
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    MPPS,
    RELEASE,
    VERIFICATION,
    WORKLIST,
    Answering,
    ScriptedChannel,
    Shelf,
    cancel,
    converse,
    echo,
    find,
    message,
    offer,
    request,
    storage_offer,
    store,
)

_TOKENS = (
    *(struct.pack(">BxI", kind, 4) for kind in (1, 2, 3, 4, 5, 6, 7, 8, 0)),
    RELEASE,
    pdu.RELEASE_RP,
    ABORT,
    *(
        bytes((kind, 0, 0, 4))
        for kind in (0x10, 0x20, 0x21, 0x30, 0x40, 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56)
    ),
    b"1.2.840.10008.1.1",
    b"../../etc/passwd",
    b"1.2.840.10008.1.2",
    *(
        struct.pack("<HHI", 0, element, 2)
        for element in (0x100, 0x110, 0x120, 0x700, 0x800, 0x900, 0x901, 0x1000)
    ),
)


def _answers(_request, data, _cancelled):
    for _ in range(len(data) % 7):
        yield Response(0xFF00, b"\x08\x00\x60\x00\x02\x00\x00\x00CT")


def _offers() -> Offers:
    return Offers(
        [
            verification_offer(),
            offer(Answering(_answers), limit=64 * 1024),
            offer(
                Answering(lambda *_: [Response(0)]), abstract_syntax=MPPS, operation=CommandField.N_CREATE_RQ
            ),
        ],
        otherwise=any_storage(storage_offer(Shelf())),
    )


OFFERS = _offers()


def _requests() -> list[bytes]:
    roles = {CT_IMAGE: pdu.Roles(scu=True, scp=True)}
    return [
        request(),
        request(VERIFICATION, WORKLIST, MPPS, (CT_IMAGE, (EXPLICIT, IMPLICIT))),
        request(*[(f"1.2.840.10008.5.1.4.1.1.{n}", (IMPLICIT, EXPLICIT)) for n in range(1, 40)], roles=roles,
                extended_negotiation={WORKLIST: b"\1\1\1"}, asynchronous_operations=(5, 5)),
    ]  # fmt: skip


def _accepts() -> list[bytes]:
    return [
        negotiate(pdu.parse_associate_request(raw), OFFERS, advertised_pdu_bytes=16384).encoded_accept
        for raw in _requests()
    ]


# --- PDUs --------------------------------------------------------------------------------------------------


def _associate(data: bytes) -> None:
    """Hold both A-ASSOCIATE parsers to their one error, and to what pynetdicom reads."""
    try:
        asked = pdu.parse_associate_request(data)
    except pdu.MalformedPdu:
        pass
    else:
        agreement = negotiate(asked, OFFERS, advertised_pdu_bytes=16384)
        answered = pdu.parse_associate_accept(agreement.encoded_accept)
        assert [context.id for context in answered.contexts] == [context.id for context in asked.contexts]
        assert set(agreement.contexts) <= {context.id for context in asked.contexts}
        _agrees(data, A_ASSOCIATE_RQ, asked)
    try:
        accepted = pdu.parse_associate_accept(data)
    except pdu.MalformedPdu:
        return
    _agrees(data, A_ASSOCIATE_AC, accepted)


def _agrees(data: bytes, kind: type, ours: pdu.AssociateRequest | pdu.AssociateAccept) -> None:
    """Compare with pynetdicom where it reads the PDU at all: it refuses far more than it must."""
    if (
        len(data) > 4096
        or int.from_bytes(data[2:6], "big") != len(data) - pdu.HEADER_BYTES
        or data[0] not in (1, 2)
    ):
        return
    reference = kind()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference.decode(data)
        theirs = {context.presentation_context_id: context for context in reference.presentation_context}
        length = reference.user_information.maximum_length if reference.user_information else None
    except Exception:  # whatever it is: it cannot say what is right
        return
    for context in ours.contexts:
        if isinstance(context, pdu.ProposedContext):
            other = theirs[context.id]
            named = [item for item in other.abstract_transfer_syntax_sub_items if item.item_type == 0x30]
            # Of two abstract syntaxes, which PS3.8 does not allow, either may be meant.
            if len(named) == 1 and pdu.is_uid(context.abstract_syntax):
                assert str(other.abstract_syntax).rstrip("\0 ") == context.abstract_syntax, (
                    "another abstract syntax is read"
                )
        else:
            assert theirs[context.id].result == context.result, "another result is read"
    if length is not None and data.count(b"\x51\x00\x00\x04") == 1:
        assert length == ours.max_pdu_bytes, "another maximum length is read"


# --- commands ----------------------------------------------------------------------------------------------


def _commands() -> list[bytes]:
    others = (
        Command(field=CommandField.C_FIND_RSP, message_id_being_responded_to=7, status=0xFF00, has_data_set=True),
        Command(field=CommandField.N_CREATE_RQ, message_id=1, affected_sop_class_uid=MPPS,
                affected_sop_instance_uid="1.2.3", has_data_set=True),
        Command(field=CommandField.N_SET_RSP, message_id_being_responded_to=1, status=0x0110, error_comment="no",
                offending_elements=(0x00400252,), error_id=5),
        Command(field=CommandField.C_MOVE_RSP, message_id_being_responded_to=1, status=0xFF00,
                remaining_suboperations=3, completed_suboperations=1, failed_suboperations=0,
                warning_suboperations=0),
    )  # fmt: skip
    return [encode_command(command) for command in (echo(), find(), store(), cancel(), *others)]


def _command(data: bytes) -> None:
    """Hold the command parser to its one error, to fragments, and to what can be written of what was read."""
    try:
        whole = decode_command(data)
    except MalformedCommand:
        whole = None
    assert _in_fragments(data) == (None if len(data) > 65536 else whole), "fragments matter"
    if whole is None:
        return
    if not whole.field.is_response and whole.field is not CommandField.C_CANCEL_RQ:
        answer = Response(0x0110, error_comment="Processing failure", offending_elements=(0x00100010,))
        read = decode_command(encode_command(response_command(whole, answer)))
        assert read.field is whole.field.response
        assert read.message_id_being_responded_to == whole.message_id
        refusal_of(whole, _AGREED)


_AGREED = negotiate(
    pdu.parse_associate_request(request(WORKLIST)), OFFERS, advertised_pdu_bytes=16384
).contexts[1]


def _in_fragments(data: bytes) -> Command | None:
    collector, draw, at = CommandCollector(), random.Random(zlib.crc32(data)), 0
    try:
        while True:
            step = draw.choice((1, 10, 100, 70_000)) if len(data) < 20_000 else 70_000
            piece, at = data[at : at + step], at + step
            got = collector.feed(
                DataReceived(1, is_command=True, is_last=at >= len(data), data=memoryview(piece))
            )
            if got is not None:
                assert not collector.is_collecting
                return got[1]
    except MalformedCommand:
        return None


# --- the upper layer, without I/O --------------------------------------------------------------------------

SMALL = PduLimits(
    associate_bytes=8 * 1024, p_data_bytes=16 * 1024, idle_buffer_bytes=256, bulk_buffer_bytes=4096
)


def _upper(role: Role) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        """Hold the state machine to: any cut gives the same events, and it never holds more than one PDU."""
        assert _events(role, data, None) == _events(role, data, random.Random(zlib.crc32(data))), (
            "the cut matters"
        )

    return run


def _events(role: Role, data: bytes, cuts: random.Random | None) -> list[object]:
    upper = UpperLayer(role, SMALL)
    if role is Role.REQUESTOR:
        upper.associate(pdu.parse_associate_request(_requests()[0]))
    seen: list[object] = []
    ended: int | None = None
    at = 0
    while True:
        event = upper.next_event()
        if event is None:
            if at == len(data) or upper.state is State.IDLE:
                break
            space = upper.receive_space()
            assert len(space) > 0
            assert len(upper._buffer) <= 2 * SMALL.p_data_bytes, "more is held than a PDU may have"
            step = len(space) if cuts is None else min(len(space), cuts.choice((1, 2, 7, 64, 5000)))
            step = min(step, len(data) - at)
            space[:step] = data[at : at + step]
            at += step
            upper.received(step)
            continue
        if isinstance(event, DataReceived):
            key = ("data", event.context_id, event.is_command)
            if seen and isinstance(seen[-1], list) and seen[-1][0] == key and not seen[-1][2]:
                seen[-1][1] += event.data
                seen[-1][2] = event.is_last
            else:
                seen.append([key, bytearray(event.data), event.is_last])
            continue
        seen.append(event)
        if isinstance(event, AssociationRequested):
            refuses = event.raw[-1] % 5 == 0
            seen.append(upper.reject(pdu.NO_REASON_GIVEN) if refuses else upper.accept(b"accepted"))
        elif isinstance(event, ReleaseRequested):
            seen.append(upper.confirm_release())
        elif isinstance(event, PeerViolated):
            assert upper.take_output()[0] == pdu.PduType.ABORT
        if ended is None and upper.state in (State.AWAITING_CLOSE, State.IDLE):
            # From here on nothing is understood any more, only survived: where it is cut may show.
            seen.append(upper.state)
            ended = len(seen)
    return seen[:ended]


# --- whole conversations -----------------------------------------------------------------------------------


def _dialogues() -> list[bytes]:
    create = Command(field=CommandField.N_CREATE_RQ, message_id=4, affected_sop_class_uid=MPPS,
                     affected_sop_instance_uid="1.2.3.4", has_data_set=True)  # fmt: skip
    opened = request(VERIFICATION, WORKLIST, MPPS, (CT_IMAGE, (EXPLICIT, IMPLICIT)))
    data_set = b"\x08\x00\x60\x00\x02\x00\x00\x00CT"
    return [
        request() + message(echo()) + RELEASE,
        opened + message(echo()) + message(find(2), data_set, context_id=3) + RELEASE,
        opened + message(find(2), data_set * 5, context_id=3) + message(cancel(2), context_id=3) + ABORT,
        opened
        + message(store(message_id=3), b"x" * 3000, context_id=7, payload_bytes=512)
        + message(echo(9))
        + RELEASE,
        opened
        + message(create, data_set, context_id=5)
        + message(store(message_id=5), b"y" * 100, context_id=7),
    ]


def pdus_of(data: bytes) -> list[bytes]:
    """Cut a stream into its PDUs; what is left over is the last piece."""
    found, at = [], 0
    while at + 6 <= len(data):
        past = at + 6 + int.from_bytes(data[at + 2 : at + 6], "big")
        found.append(data[at:past])
        at = past
    return [*found, data[at:]] if at < len(data) else found


def _reordered(draw: random.Random, data: bytes) -> bytes:
    """Drop, double, move, damage and replace whole PDUs: legal ones where they are not expected."""
    pieces = pdus_of(data)
    for _ in range(draw.randint(1, 3)):
        if not pieces:
            break
        at = draw.randrange(len(pieces))
        match draw.randrange(6):
            case 0:
                del pieces[at]
            case 1:
                pieces.insert(at, draw.choice(pieces))
            case 2:
                draw.shuffle(pieces)
            case 3:
                pieces.insert(
                    at, draw.choice((RELEASE, pdu.RELEASE_RP, ABORT, pdu.encode_reject(pdu.NO_REASON_GIVEN)))
                )
            case 4:
                size = draw.choice((0, 1, 2, 10, 3000))
                control = draw.randrange(4)
                pieces.insert(
                    at, pdu.data_header(draw.choice((1, 3, 5, 7, 9)), control, size) + draw.randbytes(size)
                )
            case 5:
                piece = bytearray(pieces[at])
                if len(piece) > 6:
                    piece[draw.randrange(6, len(piece))] = draw.randrange(256)
                pieces[at] = bytes(piece)
    return b"".join(pieces)


class _FaultyChannel(ScriptedChannel):
    """Is a channel whose peer stops reading, or is gone, at the n-th send."""

    def __init__(self, script, fails_at: int, error: type[OSError]) -> None:
        super().__init__(script)
        self._fails_at, self._error = fails_at, error

    def send(self, parts, *, timeout_s, min_bytes_per_s):
        super().send(parts, timeout_s=timeout_s, min_bytes_per_s=min_bytes_per_s)
        if self.sends >= self._fails_at:
            raise self._error

    def close(self):
        self.closed = True


def _script(data: bytes) -> tuple[list[bytes], _FaultyChannel]:
    draw, at, script = random.Random(zlib.crc32(data)), 0, []
    while at < len(data):
        step = draw.choice((1, 6, 12, 100, 70_000, 70_000))
        script.append(data[at : at + step])
        at += step
    fails_at = draw.choice((1 << 30, 1 << 30, 1, 2, 3, 4))
    return script, _FaultyChannel(script, fails_at, draw.choice((TimeoutError, ConnectionResetError)))


def _served(data: bytes) -> None:
    """Hold a served association to: it ends, in a way that has a name, and what it said were PDUs."""
    _, channel = _script(data)
    talk = converse(channel=channel, offers=OFFERS)
    assert all(kind for kind in talk.pdus)
    assert len(talk.diary.knocks) + len(talk.diary.reasons) == 1, "it ended twice, or not at all"
    assert CloseReason.FAILED not in talk.diary.reasons, "it ended for a reason of our own"


def _replies() -> list[bytes]:
    """Answer what a server says to the client below."""
    accept = negotiate(
        pdu.parse_associate_request(_CLIENT_ASKS), OFFERS, advertised_pdu_bytes=16384
    ).encoded_accept

    def answer(field: CommandField, message_id: int, status: int, **more: object) -> Command:
        return Command(field=field, message_id_being_responded_to=message_id, status=status, **more)

    found = message(
        answer(CommandField.C_FIND_RSP, 2, 0xFF00, has_data_set=True), b"\x08\0\x60\0\2\0\0\0CT", context_id=3
    )
    event = Command(field=CommandField.N_EVENT_REPORT_RQ, message_id=9, affected_sop_class_uid=MPPS,
                    affected_sop_instance_uid="1.2", event_type_id=1)  # fmt: skip
    return [
        accept
        + message(answer(CommandField.C_ECHO_RSP, 1, 0))
        + found * 3
        + message(event, context_id=3)
        + message(answer(CommandField.C_FIND_RSP, 2, 0), context_id=3)
        + message(answer(CommandField.C_STORE_RSP, 3, 0), context_id=7)
        + pdu.RELEASE_RP,
        accept + message(answer(CommandField.C_ECHO_RSP, 1, 0)) + RELEASE,
        accept + message(answer(CommandField.C_ECHO_RSP, 1, 0)) + found + ABORT,
        pdu.encode_reject(pdu.CALLED_AE_TITLE_NOT_RECOGNIZED),
    ]


_CLIENT_ASKS = request(VERIFICATION, WORKLIST, MPPS, (CT_IMAGE, (EXPLICIT,)))


def _asking(data: bytes) -> None:
    """Hold a requestor to: whatever the server says, the caller gets answers or an AssociationError."""
    _, channel = _script(data)
    try:
        association = ClientAssociation(
            channel, pdu.parse_associate_request(_CLIENT_ASKS), timeouts=Timeouts()
        )
        with association:
            association.echo()
            list(
                association.request(
                    Command(field=CommandField.C_FIND_RQ, affected_sop_class_uid=WORKLIST), b"\0" * 8
                )
            )
            association.store(
                sop_class_uid=CT_IMAGE, sop_instance_uid="1.2.3", context=EXPLICIT, payload=b"x" * 2000
            )
    except AssociationError:
        assert channel.closed, "the connection was left open"


def targets(_folder: Path) -> dict[str, Target]:
    """Answer the targets of this file by name."""
    return {
        target.name: target
        for target in (
            Target("associate", [*_requests(), *_accepts()], _associate, _TOKENS),
            Target("command", _commands(), _command, _TOKENS),
            Target("acceptor", _dialogues(), _upper(Role.ACCEPTOR), _TOKENS, _reordered),
            Target("requestor", _replies(), _upper(Role.REQUESTOR), _TOKENS, _reordered),
            Target("served", _dialogues(), _served, _TOKENS, _reordered),
            Target("asking", _replies(), _asking, _TOKENS, _reordered),
        )
    }
