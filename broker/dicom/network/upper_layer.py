"""Drive one association of PS3.8 without any I/O: bytes in, events out; requests in, bytes out.

The owner reads into `receive_space()`, says how much with `received()`, and pulls with `next_event()` until
that returns None. Payload is handed on as it arrives, as slices of the one reused buffer: a data set is never
assembled, and a PDU that is too long is refused from its header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from broker.dicom.network import pdu
from broker.dicom.network.pdu import AbortReason, AbortSource, MalformedPdu, PduType, Rejection
from broker.dicom.network.states import Action, LocalMistake, Role, State, Stimulus, move


@dataclass(frozen=True, slots=True)
class PduLimits:
    """Bound what a peer can make us hold."""

    associate_bytes: int = 256 * 1024
    p_data_bytes: int = 1024 * 1024
    idle_buffer_bytes: int = 4 * 1024
    bulk_buffer_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class AssociationRequested:
    """The peer asks for an association; `raw` is the PDU as received, so that answers can be remembered."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class AssociationAccepted:
    """The peer accepts our association."""

    accept: pdu.AssociateAccept


@dataclass(frozen=True, slots=True)
class AssociationRefused:
    """The peer rejects our association."""

    rejection: Rejection


@dataclass(slots=True)
class DataReceived:
    """A piece of a command set or data set has come; `data` is only valid until the next read."""

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


@dataclass(frozen=True, slots=True)
class ReleaseRequested:
    """The peer asks for release."""


@dataclass(frozen=True, slots=True)
class Released:
    """The association is released in order."""


@dataclass(frozen=True, slots=True)
class PeerAborted:
    """The peer aborted."""

    source: int
    reason: int


@dataclass(frozen=True, slots=True)
class PeerViolated:
    """The peer broke PS3.8 and we aborted; `take_output()` holds the A-ABORT."""

    what: str
    reason: AbortReason


Event = (
    AssociationRequested
    | AssociationAccepted
    | AssociationRefused
    | DataReceived
    | ReleaseRequested
    | Released
    | PeerAborted
    | PeerViolated
)

_STIMULUS: Final[dict[int, Stimulus]] = {
    PduType.ASSOCIATE_RQ: Stimulus.REQUEST_PDU,
    PduType.ASSOCIATE_AC: Stimulus.ACCEPT_PDU,
    PduType.ASSOCIATE_RJ: Stimulus.REJECT_PDU,
    PduType.P_DATA_TF: Stimulus.DATA_PDU,
    PduType.RELEASE_RQ: Stimulus.RELEASE_RQ_PDU,
    PduType.RELEASE_RP: Stimulus.RELEASE_RP_PDU,
    PduType.ABORT: Stimulus.ABORT_PDU,
}
_P_DATA: Final = int(PduType.P_DATA_TF)
_ASSOCIATE: Final = (PduType.ASSOCIATE_RQ, PduType.ASSOCIATE_AC)
_PDU_HEADER = struct.Struct(">BxI")
_PDV_HEADER = struct.Struct(">IBB")
_DATA_HEADER = struct.Struct(">BxIIBB")  # of a P-DATA-TF and of its first PDV
_EMPTY = memoryview(b"")


class UpperLayer:
    """Be one end of one association."""

    def __init__(self, role: Role, limits: PduLimits | None = None) -> None:
        self.role = role
        self.state = State.IDLE
        self.limits = limits or PduLimits()
        self._output: list[bytes] = []
        self._buffer = memoryview(bytearray(self.limits.idle_buffer_bytes))
        self._start = 0  # first byte not yet understood
        self._end = 0  # past the last byte received
        self._pdu_left = 0  # bytes still to come of the P-DATA-TF being read
        self._pdv_left = 0  # bytes still to come of the PDV being read
        self._context_id = 0
        self._control = 0
        self.pdus_received = 0
        if role is Role.ACCEPTOR:
            self._move(Stimulus.TRANSPORT_ACCEPTED)

    # ── requests in, bytes out ──────────────────────────────────────────────────────────────────────────

    def associate(self, request: pdu.AssociateRequest) -> bytes:
        """Request an association over a transport that has just been opened."""
        self._move(Stimulus.ASSOCIATE)
        self._move(Stimulus.TRANSPORT_OPEN)
        return pdu.encode_associate_request(request)

    def accept(self, encoded: bytes) -> bytes:
        """Accept the association with an A-ASSOCIATE-AC that is already encoded."""
        self._move(Stimulus.ACCEPT)
        return encoded

    def reject(self, rejection: Rejection) -> bytes:
        """Reject the association."""
        self._move(Stimulus.REJECT)
        return pdu.encode_reject(rejection)

    def data(self) -> None:
        """Check that data may be sent now; `dimse.message_pdus` makes the bytes."""
        if self.state is not State.ESTABLISHED:
            self._move(Stimulus.DATA)

    def release(self) -> bytes:
        """Ask for release."""
        self._move(Stimulus.RELEASE)
        return pdu.RELEASE_RQ

    def confirm_release(self) -> bytes:
        """Confirm the release the peer asked for."""
        self._move(Stimulus.RELEASE_REPLY)
        return pdu.RELEASE_RP

    def abort(
        self, source: AbortSource = AbortSource.SERVICE_USER, reason: AbortReason = AbortReason.NOT_SPECIFIED
    ) -> bytes:
        """Abort: as the service user, or for the provider when the DIMSE layer found a violation."""
        self._move(Stimulus.ABORT)
        return pdu.encode_abort(source, reason)

    def transport_closed(self) -> None:
        """Take note that the transport is gone."""
        if self.state is not State.IDLE:
            self._move(Stimulus.TRANSPORT_CLOSED)

    def artim_expired(self) -> None:
        """Take note that the peer did not ask for an association, or did not close, in time."""
        self._move(Stimulus.ARTIM_EXPIRED)

    def take_output(self) -> bytes:
        """Return what the state machine itself has to say, an A-ABORT, and forget it."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def _move(self, stimulus: Stimulus) -> Action:
        action, self.state = move(self.state, stimulus, self.role)
        return action

    # ── bytes in, events out ────────────────────────────────────────────────────────────────────────────

    @property
    def is_between_pdus(self) -> bool:
        """Tell whether everything received has been understood and no PDU is half here."""
        return self._pdu_left == 0 and self._start == self._end

    @property
    def payload_left(self) -> int:
        """Return how many bytes of the PDV being read are still to be received."""
        return self._pdv_left

    def receive_space(self) -> memoryview:
        """Return where to put what the transport has; never empty."""
        pending = self._end - self._start
        if pending == 0:
            self._start = self._end = 0
        size = len(self._buffer)
        wanted = size
        if self._pdu_left > size:
            wanted = self.limits.bulk_buffer_bytes
        elif pending >= pdu.HEADER_BYTES and self._pdu_left == 0:
            wanted = pdu.HEADER_BYTES + _PDU_HEADER.unpack_from(self._buffer, self._start)[1]
        if wanted > size:
            self._rehouse(wanted)
        elif self._start and (self._end == size or pending < pdu.HEADER_BYTES + pdu.PDV_HEADER_BYTES):
            self._buffer[:pending] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, pending
        if self._end == len(self._buffer):
            self._rehouse(2 * size)
        return self._buffer[self._end :]

    def received(self, count: int) -> None:
        """Take note that `count` bytes stand in the receive space."""
        self._end += count

    def shrink(self) -> None:
        """Give the bulk buffer back while nothing is going on."""
        if len(self._buffer) > self.limits.idle_buffer_bytes and self._start == self._end:
            self._rehouse(self.limits.idle_buffer_bytes)

    def _rehouse(self, size: int) -> None:
        pending = self._end - self._start
        buffer = memoryview(bytearray(size))
        buffer[:pending] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = buffer, 0, pending

    def next_event(self) -> Event | None:
        """Return the next thing that happened, or None when more bytes are needed."""
        while True:
            if self._pdv_left or (not self._pdu_left and self._begin_plain_data()):
                return self._payload()
            if self.state is State.IDLE:
                # What still comes is nobody's: kept, its first bytes would be taken for the length of a PDU.
                self._discard_rest()
                return None
            try:
                if self._pdu_left:
                    if not self._begin_pdv():
                        return None
                    if self._is_pdv_empty():
                        return DataReceived(
                            self._context_id, bool(self._control & pdu.COMMAND_BIT), is_last=True, data=_EMPTY
                        )
                    continue
                length = self._whole_pdu_or_data_header()
                if length is None:
                    return None
                event = self._begin_pdu(length)
            except MalformedPdu as malformed:
                return self._violated(Stimulus.INVALID_PDU, malformed.what, malformed.reason)
            if event is not None:
                return event

    def _begin_plain_data(self) -> bool:
        """Begin a P-DATA-TF whose headers are here and as they should be; False leaves all others to the table."""
        start = self._start
        if self._end - start < pdu.DATA_HEADER_BYTES or self.state is not State.ESTABLISHED:
            return False
        kind, length, pdv_length, context_id, control = _DATA_HEADER.unpack_from(self._buffer, start)
        # DT-2 (PS3.8 9.2.3): the state stays. An empty PDV and every violation go the long way.
        if kind != _P_DATA or length > self.limits.p_data_bytes or not 2 < pdv_length <= length - 4:
            return False
        self._start = start + pdu.DATA_HEADER_BYTES
        self._pdu_left = length - pdu.PDV_HEADER_BYTES
        self._pdv_left = pdv_length - 2
        self._context_id = context_id
        self._control = control
        self.pdus_received += 1
        return True

    def _payload(self) -> DataReceived | None:
        start, left = self._start, self._pdv_left
        available = self._end - start
        if available <= 0:
            return None
        taken = min(left, available)
        self._start = start + taken
        self._pdv_left = left - taken
        self._pdu_left -= taken
        return DataReceived(
            self._context_id,
            bool(self._control & pdu.COMMAND_BIT),
            self._pdv_left == 0 and bool(self._control & pdu.LAST_BIT),
            self._buffer[start : start + taken],
        )

    def _is_pdv_empty(self) -> bool:
        return self._pdv_left == 0

    def _begin_pdv(self) -> bool:
        if self._pdu_left < pdu.PDV_HEADER_BYTES:
            raise MalformedPdu("a P-DATA-TF ends inside a PDV header")
        if self._end - self._start < pdu.PDV_HEADER_BYTES:
            return False
        length, context_id, control = _PDV_HEADER.unpack_from(self._buffer, self._start)
        self._start += pdu.PDV_HEADER_BYTES
        self._pdu_left -= pdu.PDV_HEADER_BYTES
        # PS3.8 9.3.5.1: the length counts the context id and the message control header
        if not 2 <= length <= self._pdu_left + 2:
            raise MalformedPdu("a PDV is shorter than its header or longer than its PDU")
        if length == 2 and not control & pdu.LAST_BIT:
            raise MalformedPdu("a PDV carries nothing")
        self._pdv_left = length - 2
        self._context_id = context_id
        self._control = control
        return True

    def _whole_pdu_or_data_header(self) -> int | None:
        """Return the length of the next PDU once it can be begun, refusing from the header what must not be read."""
        pending = self._end - self._start
        if pending == 0:
            return None
        kind = self._buffer[self._start]
        if kind not in _STIMULUS:  # also a TLS hello or an HTTP request: no need to wait for six bytes
            raise MalformedPdu("the PDU type is not known", AbortReason.UNRECOGNIZED_PDU)
        if pending < pdu.HEADER_BYTES:
            return None
        length: int = _PDU_HEADER.unpack_from(self._buffer, self._start)[1]
        if kind == _P_DATA:
            if length > self.limits.p_data_bytes:
                raise MalformedPdu("a P-DATA-TF is longer than the limit")
            if length == 0:
                raise MalformedPdu("a P-DATA-TF carries nothing")
            return length
        if kind in _ASSOCIATE:
            if length > self.limits.associate_bytes:
                raise MalformedPdu("an A-ASSOCIATE PDU is longer than the limit")
        elif length != 4:
            raise MalformedPdu("a PDU of fixed length has another length")
        return length if pending >= pdu.HEADER_BYTES + length else None

    def _begin_pdu(self, length: int) -> Event | None:
        kind = self._buffer[self._start]
        stimulus = _STIMULUS[kind]
        first = self._start
        self.pdus_received += 1
        if kind == _P_DATA:
            self._start += pdu.HEADER_BYTES
            if self.state is State.ESTABLISHED:  # DT-2, the state remains
                self._pdu_left = length
                return None
        else:
            self._start += pdu.HEADER_BYTES + length
        action, following = move(self.state, stimulus, self.role)
        if action in (Action.AA_1, Action.AA_8):
            what = f"{PduType(kind).name} is not expected in {self.state.value}"
            return self._violated(stimulus, what, AbortReason.UNEXPECTED_PDU)
        if action is Action.AA_7:
            self._output.append(pdu.encode_abort(AbortSource.SERVICE_PROVIDER, AbortReason.UNEXPECTED_PDU))
        if kind == _P_DATA:
            self.state = following
            self._pdu_left = length
            if action is Action.AA_6:
                self._discard_rest()
            return None
        raw = bytes(self._buffer[first : self._start])
        event = self._announce(action, raw)  # may find the PDU malformed: then the state has not moved
        self.state = following
        return event

    def _announce(self, action: Action, raw: bytes) -> Event | None:
        if action is Action.AE_6:
            return AssociationRequested(raw)
        if action is Action.AE_3:
            return AssociationAccepted(pdu.parse_associate_accept(raw))
        if action is Action.AE_4:
            return AssociationRefused(Rejection(raw[7], raw[8], raw[9]))
        if action in (Action.AR_2, Action.AR_8, Action.AR_10):
            return ReleaseRequested()
        if action is Action.AR_3:
            return Released()
        if action in (Action.AA_2, Action.AA_3):
            return PeerAborted(raw[8], raw[9])
        return None  # AA-6, AA-7: nothing to tell

    def _violated(self, stimulus: Stimulus, what: str, reason: AbortReason) -> PeerViolated | None:
        """Abort as the table says. Afterwards nothing the peer sends is understood any more."""
        try:
            action, self.state = move(self.state, stimulus, self.role)
        except LocalMistake:  # bytes without a transport: they arrived before the peer's abort took effect
            self._discard_rest()
            return None
        self._discard_rest()
        if action is Action.AA_6:
            return None
        # PS3.8 table 9-9: AA-1 aborts as the service user, AA-7 and AA-8 as the service provider
        source = AbortSource.SERVICE_USER if action is Action.AA_1 else AbortSource.SERVICE_PROVIDER
        told = AbortReason.NOT_SPECIFIED if action is Action.AA_1 else reason
        self._output.append(pdu.encode_abort(source, told))
        return None if action is Action.AA_7 else PeerViolated(what, reason)

    def _discard_rest(self) -> None:
        self._start = self._end = 0
        self._pdu_left = self._pdv_left = 0
