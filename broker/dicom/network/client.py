"""Open associations: the only file that connects."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Self

from broker.dicom.network import pdu
from broker.dicom.network.channel import Buffer, Channel, TlsChannel
from broker.dicom.network.dimse import (
    Command,
    CommandCollector,
    CommandField,
    MalformedCommand,
    Priority,
    encode_command,
    largest_payload,
    message_pdus,
)
from broker.dicom.network.failures import (
    AssociationAborted,
    AssociationError,
    AssociationLost,
    AssociationRejected,
    ConnectFailed,
    ContextNotAccepted,
    Phase,
    TimedOut,
)
from broker.dicom.network.payload import data_set_parts
from broker.dicom.network.pdu import AbortReason, AbortSource, AssociateRequest, ProposedContext, Roles
from broker.dicom.network.service import PresentationContext
from broker.dicom.network.states import LocalMistake, Role
from broker.dicom.network.tls import ClientTls
from broker.dicom.network.upper_layer import (
    AssociationAccepted,
    AssociationRefused,
    DataReceived,
    Event,
    PeerAborted,
    PeerViolated,
    Released,
    ReleaseRequested,
    UpperLayer,
)
from broker.dicom.network.verification import VERIFICATION_SOP_CLASS_UID

ADVERTISED_PDU_BYTES: Final = 128 * 1024
MAX_REPLY_BYTES: Final = 64 * 1024 * 1024
_PENDING: Final = frozenset({0xFF00, 0xFF01})
_MEBIBYTE: Final = 1024 * 1024
_MAX_MESSAGE_ID: Final = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Hold how long we wait for a peer."""

    connect_s: float = 10.0
    association_s: float = 30.0
    response_s: float = 120.0
    response_s_per_mib: float = 1.0
    send_s: float = 30.0
    min_bytes_per_s: float = 8 * 1024
    release_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """Propose one presentation context; ids are given in the order of proposal."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    roles: Roles | None = None
    extended_negotiation: bytes | None = None


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """Hold one context the peer accepted."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    roles: Roles | None


@dataclass(frozen=True, slots=True)
class Reply:
    """Hold one answer to a request."""

    command: Command
    data_set: bytes | None

    @property
    def status(self) -> int:
        """Return the DIMSE status."""
        return self.command.status or 0

    @property
    def is_pending(self) -> bool:
        """Tell whether more answers follow."""
        return self.status in _PENDING


EventReportHandler = Callable[[Command, bytes | None], int]


def open_association(
    host: str,
    port: int,
    *,
    calling_ae_title: str,
    called_ae_title: str,
    contexts: Sequence[Proposal],
    timeouts: Timeouts | None = None,
    tls: ClientTls | None = None,
    advertised_pdu_bytes: int = ADVERTISED_PDU_BYTES,
    on_event_report: EventReportHandler | None = None,
) -> ClientAssociation:
    """Connect, negotiate and return the association; raises an AssociationError that says where it failed."""
    if not 1 <= len(contexts) <= pdu.MAX_CONTEXTS:
        raise ValueError(f"an association proposes 1 to {pdu.MAX_CONTEXTS} contexts")
    timeouts = timeouts or Timeouts()
    request = AssociateRequest(
        called_ae_title=called_ae_title,
        calling_ae_title=calling_ae_title,
        contexts=tuple(
            ProposedContext(2 * index + 1, context.abstract_syntax, context.transfer_syntaxes)
            for index, context in enumerate(contexts)
        ),
        max_pdu_bytes=advertised_pdu_bytes,
        roles={c.abstract_syntax: c.roles for c in contexts if c.roles is not None},
        extended_negotiation={
            c.abstract_syntax: c.extended_negotiation for c in contexts if c.extended_negotiation is not None
        },
    )
    channel = _connect(host, port, timeouts=timeouts, tls=tls)
    try:
        association = ClientAssociation(channel, request, timeouts=timeouts, on_event_report=on_event_report)
    except BaseException:
        channel.close()
        raise
    return association


def _connect(host: str, port: int, *, timeouts: Timeouts, tls: ClientTls | None) -> Channel:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise ConnectFailed(Phase.RESOLVE, _told(error)) from error
    failure: OSError | None = None
    deadline = time.monotonic() + timeouts.connect_s
    for family, kind, protocol, _name, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(0.05, deadline - time.monotonic()))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
            continue
        return _secured(sock, host, tls)
    raise ConnectFailed(Phase.CONNECT, _told(failure)) from failure


def _told(error: Exception | None) -> str:
    """Say what the system said, without the number people on call cannot read."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _secured(sock: socket.socket, host: str, tls: ClientTls | None) -> Channel:
    if tls is None:
        sock.settimeout(None)  # from here on the channel's own deadlines hold
        return Channel(sock)
    try:
        return TlsChannel(tls.context().wrap_socket(sock, server_hostname=host))
    except ssl.SSLError as error:
        sock.close()
        # A handshake that is answered and refused will be refused again; silence and resets may pass.
        raise ConnectFailed(Phase.TLS, error.reason or str(error), is_configuration=True) from error
    except OSError as error:
        sock.close()
        raise ConnectFailed(Phase.TLS, _told(error)) from error


class ClientAssociation:
    """Be the requestor's end of one association; for one thread at a time. Leaving it as a context releases."""

    def __init__(
        self,
        channel: Channel,
        request: AssociateRequest,
        *,
        timeouts: Timeouts,
        on_event_report: EventReportHandler | None = None,
    ) -> None:
        self._channel = channel
        self._timeouts = timeouts
        self._on_event_report = on_event_report
        self._upper = UpperLayer(Role.REQUESTOR)
        self._collector = CommandCollector()
        self._message_id = 0
        self._closed = False
        accept = self._negotiate(request)
        self.peer_max_pdu_bytes = accept.max_pdu_bytes
        self.implementation_class_uid = accept.implementation_class_uid
        self.implementation_version = accept.implementation_version
        self.extended_negotiation = accept.extended_negotiation
        self._payload_bytes = max(1, largest_payload(accept.max_pdu_bytes))
        answers = {answer.id: answer for answer in accept.contexts}
        self.contexts: tuple[AcceptedContext, ...] = tuple(
            AcceptedContext(
                proposed.id,
                proposed.abstract_syntax,
                answers[proposed.id].transfer_syntax,
                accept.roles.get(proposed.abstract_syntax),
            )
            for proposed in request.contexts
            if proposed.id in answers and answers[proposed.id].result == pdu.ContextResult.ACCEPTED
        )
        self.refused_contexts: dict[ProposedContext, int] = {
            proposed: answers[proposed.id].result if proposed.id in answers else pdu.ContextResult.NO_REASON
            for proposed in request.contexts
            if proposed.id not in {context.id for context in self.contexts}
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._closed:
            return
        if kind is None:
            self.release()
        else:
            self.abort()

    @property
    def is_open(self) -> bool:
        """Tell whether requests can still be made."""
        return not self._closed

    # ── services ────────────────────────────────────────────────────────────────────────────────────────

    def context_for(self, abstract_syntax: str, transfer_syntax: str | None = None) -> AcceptedContext:
        """Return an accepted context, or raise ContextNotAccepted."""
        for context in self.contexts:
            if context.abstract_syntax == abstract_syntax and (
                transfer_syntax is None or context.transfer_syntax == transfer_syntax
            ):
                return context
        for proposed, result in self.refused_contexts.items():
            if proposed.abstract_syntax == abstract_syntax and (
                transfer_syntax is None or transfer_syntax in proposed.transfer_syntaxes
            ):
                raise ContextNotAccepted(abstract_syntax, transfer_syntax, result=result)
        raise ContextNotAccepted(abstract_syntax, transfer_syntax, result=None)

    def echo(self) -> int:
        """Send C-ECHO and return the status."""
        context = self.context_for(VERIFICATION_SOP_CLASS_UID)
        command = Command(field=CommandField.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION_SOP_CLASS_UID)
        return self._only(self.request(command, None, context=context)).status

    def store(
        self,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        context: AcceptedContext | PresentationContext | str,
        payload: BinaryIO | Buffer,
        length: int | None = None,
        priority: Priority = Priority.MEDIUM,
        move_originator_ae_title: str | None = None,
        move_originator_message_id: int | None = None,
    ) -> Reply:
        """Send C-STORE and return the answer.

        `context` is an accepted context or a transfer syntax. `payload` is the encoded data set, without file
        meta information: a file object standing at its first byte, of which `length` bytes are sent (to the end
        when None), or a buffer.
        """
        if isinstance(context, str):
            context = self.context_for(sop_class_uid, context)
        message_id = self._next_message_id()
        command = Command(
            field=CommandField.C_STORE_RQ,
            message_id=message_id,
            affected_sop_class_uid=sop_class_uid,
            affected_sop_instance_uid=sop_instance_uid,
            priority=priority,
            has_data_set=True,
            move_originator_ae_title=move_originator_ae_title,
            move_originator_message_id=move_originator_message_id,
        )
        self._check_open()
        sent = 0
        with self._failing(Phase.SEND):
            self._upper.data()
            head: list[Buffer] = list(
                message_pdus(context.id, encode_command(command), None, payload_bytes=self._payload_bytes)
            )
            for parts, size in data_set_parts(context.id, payload, length, payload_bytes=self._payload_bytes):
                self._send([*head, *parts] if head else parts)
                head = []
                sent += size
        return self._only(self._replies(message_id, sent))

    def request(
        self,
        command: Command,
        data_set: bytes | None,
        *,
        context: AcceptedContext | PresentationContext | None = None,
    ) -> Iterator[Reply]:
        """Send any request at once and return an iterator over its answers: pending ones, then the last.

        The message id is ours. `context` defaults to the accepted one of the command's SOP class.
        """
        if context is None:
            context = self.context_for(command.sop_class_uid or "")
        message_id = self._next_message_id()
        needs_priority = command.field.is_composite and command.field is not CommandField.C_ECHO_RQ
        command = command._replace(
            message_id=message_id,
            has_data_set=data_set is not None,
            priority=Priority.MEDIUM if needs_priority and command.priority is None else command.priority,
        )
        self._check_open()
        with self._failing(Phase.SEND):
            self._upper.data()
            self._send(
                message_pdus(context.id, encode_command(command), data_set, payload_bytes=self._payload_bytes)
            )
        return self._replies(message_id, len(data_set or b""))

    def cancel(self, context: AcceptedContext | PresentationContext, message_id: int | None = None) -> None:
        """Send C-CANCEL for the last request, or for another."""
        command = Command(
            field=CommandField.C_CANCEL_RQ,
            message_id_being_responded_to=self._message_id if message_id is None else message_id,
        )
        self._check_open()
        with self._failing(Phase.SEND):
            self._upper.data()
            self._send(
                message_pdus(context.id, encode_command(command), None, payload_bytes=self._payload_bytes)
            )

    def wait_for_event_reports(self, timeout_s: float) -> bool:
        """Answer what the peer reports for up to timeout_s; return whether anything came."""
        self._check_open()
        deadline = time.monotonic() + timeout_s
        came = False
        with self._failing(Phase.ANSWER):
            while True:
                try:
                    message = self._next_message(deadline, may_be_silent=True)
                except TimeoutError:
                    if self._collector.is_collecting or not self._upper.is_between_pdus:
                        raise
                    return came
                self._answer_peer(*message)
                came = True

    def release(self) -> None:
        """Release the association and close; raises when the peer does not do its part."""
        if self._closed:
            return
        with self._failing(Phase.RELEASE):
            self._send([self._upper.release()])
            deadline = time.monotonic() + self._timeouts.release_s
            while True:
                event = self._next_event(deadline)
                if isinstance(event, Released):
                    break
                if isinstance(event, ReleaseRequested):  # collision, PS3.8 9.2.3 AR-8, AR-9
                    self._send([self._upper.confirm_release()])
                elif not isinstance(event, DataReceived):
                    raise self._raise_for(event, Phase.RELEASE)
        self._close()

    def abort(self) -> None:
        """Abort the association and close."""
        if self._closed:
            return
        # The peer may be gone or our last word said already; nobody waits for this to arrive.
        with contextlib.suppress(OSError, LocalMistake):
            self._send([self._upper.abort()])
        self._close()

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────

    def _negotiate(self, request: AssociateRequest) -> pdu.AssociateAccept:
        with self._failing(Phase.ASSOCIATE):
            self._send([self._upper.associate(request)])
            event = self._next_event(time.monotonic() + self._timeouts.association_s)
            if isinstance(event, AssociationAccepted):
                return event.accept
            if isinstance(event, AssociationRefused):
                refused = event.rejection
                raise AssociationRejected(refused.result, refused.source, refused.reason)
            raise self._raise_for(event, Phase.ASSOCIATE)

    def _replies(self, message_id: int, sent_bytes: int) -> Iterator[Reply]:
        timeouts = self._timeouts
        patience_s = timeouts.response_s + timeouts.response_s_per_mib * sent_bytes / _MEBIBYTE
        while True:
            with self._failing(Phase.ANSWER):
                while True:
                    context_id, command, data_set = self._next_message(time.monotonic() + patience_s)
                    if command.field.is_response:
                        break
                    self._answer_peer(context_id, command, data_set)
                if command.message_id_being_responded_to != message_id:
                    raise self._violated()
            reply = Reply(command, data_set)
            yield reply
            if not reply.is_pending:
                return

    def _only(self, replies: Iterator[Reply]) -> Reply:
        """Return the final answer."""
        return [reply for reply in replies if not reply.is_pending][-1]

    def _answer_peer(self, context_id: int, command: Command, data_set: bytes | None) -> None:
        """Answer a request of the peer: events are taken note of, nothing else is served here."""
        if command.field is CommandField.C_CANCEL_RQ:
            return
        status = 0x0211  # unrecognized operation, PS3.7 C.5.27
        if command.field is CommandField.N_EVENT_REPORT_RQ:
            status = 0 if self._on_event_report is None else self._on_event_report(command, data_set)
        response = Command(
            field=command.field.response,
            message_id_being_responded_to=command.message_id,
            affected_sop_class_uid=command.sop_class_uid,
            affected_sop_instance_uid=command.sop_instance_uid,
            event_type_id=command.event_type_id,
            status=status,
        )
        self._send(
            message_pdus(context_id, encode_command(response), None, payload_bytes=self._payload_bytes)
        )

    def _next_message(
        self, deadline: float, *, may_be_silent: bool = False
    ) -> tuple[int, Command, bytes | None]:
        """Return the peer's next message, whole."""
        command: Command | None = None
        context_id = 0
        parts: list[bytes] = []
        size = 0
        while True:
            event = self._next_event(deadline)
            if isinstance(event, ReleaseRequested):
                # The peer leaves while we still want something of it.
                self._send([self._upper.confirm_release()])
                raise AssociationLost(Phase.ANSWER)
            if not isinstance(event, DataReceived):
                raise self._raise_for(event, Phase.ANSWER)
            if command is None:
                try:
                    whole = self._collector.feed(event)
                except MalformedCommand:
                    raise self._violated() from None
                if whole is None:
                    continue
                context_id, command = whole
                if not command.has_data_set:
                    return context_id, command, None
                continue
            if event.is_command or event.context_id != context_id:
                raise self._violated()
            size += len(event.data)
            if size > MAX_REPLY_BYTES:
                raise self._violated()
            parts.append(bytes(event.data))
            if event.is_last:
                return context_id, command, b"".join(parts)
            if may_be_silent:  # something came: from here on the usual patience
                deadline = max(deadline, time.monotonic() + self._timeouts.send_s)

    def _next_event(self, deadline: float) -> Event:
        upper = self._upper
        while (event := upper.next_event()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            count = self._channel.receive_into(upper.receive_space(), left)
            if count == 0:
                upper.transport_closed()
                raise ConnectionResetError
            upper.received(count)
        return event

    def _send(self, parts: Sequence[Buffer]) -> None:
        timeouts = self._timeouts
        self._channel.send(parts, timeout_s=timeouts.send_s, min_bytes_per_s=timeouts.min_bytes_per_s)

    def _raise_for(self, event: Event, phase: Phase) -> AssociationError:
        """Make the error for an event that ends the association."""
        if isinstance(event, PeerAborted):
            return AssociationAborted(event.source, event.reason, phase=phase)
        if isinstance(event, PeerViolated):
            self._send([self._upper.take_output()])
            return AssociationAborted(AbortSource.SERVICE_PROVIDER, event.reason, phase=phase)
        return AssociationLost(phase)

    def _violated(self) -> AssociationAborted:
        """Abort because the peer broke PS3.7, and make the error that says so."""
        self._send([self._upper.abort(AbortSource.SERVICE_PROVIDER, AbortReason.INVALID_PARAMETER)])
        return AssociationAborted(
            AbortSource.SERVICE_PROVIDER, AbortReason.INVALID_PARAMETER, phase=Phase.ANSWER
        )

    @contextlib.contextmanager
    def _failing(self, phase: Phase) -> Iterator[None]:
        """Close on any failure and give it its name."""
        try:
            yield
        except TimeoutError:
            self.abort()
            raise TimedOut(phase) from None
        except OSError as error:
            reported = self._last_word(phase)
            self._close()
            raise reported or AssociationLost(phase) from error
        except BaseException:
            self._close()
            raise

    def _last_word(self, phase: Phase) -> AssociationAborted | None:
        """Look for the A-ABORT that a peer sent before it closed on us."""
        with contextlib.suppress(OSError):
            while True:
                event = self._upper.next_event()
                if isinstance(event, PeerAborted):
                    return AssociationAborted(event.source, event.reason, phase=phase)
                if event is None:
                    count = self._channel.receive_now(self._upper.receive_space())
                    if not count:
                        return None
                    self._upper.received(count)
                elif not isinstance(event, DataReceived):
                    return None
        return None

    def _check_open(self) -> None:
        if self._closed:
            raise AssociationLost(Phase.SEND)

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % _MAX_MESSAGE_ID + 1
        return self._message_id

    def _close(self) -> None:
        self._closed = True
        self._channel.close()
