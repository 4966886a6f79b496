"""Serve one association: read commands, let the offered services answer, keep every deadline.

The thread that runs this blocks in the kernel while the peer is silent. While a request is being served
nothing more is read than what is needed to see a C-CANCEL or an abort: the peer's other requests wait in
the peer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from broker.dicom.network import pdu
from broker.dicom.network.channel import Buffer, Channel, PeerDoesNotRead
from broker.dicom.network.dimse import (
    Command,
    CommandCollector,
    CommandField,
    MalformedCommand,
    largest_payload,
    message_pdus,
)
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.negotiation import AgreedContext, Agreement, Negotiator
from broker.dicom.network.pdu import (
    DATA_HEADER_BYTES,
    LAST_BIT,
    AbortReason,
    AbortSource,
    MalformedPdu,
    Rejection,
    data_header,
)
from broker.dicom.network.requests import encoded_response, failure_of, refusal_of, tell_refusal, too_large
from broker.dicom.network.service import (
    ONLY_STATUS,
    AssociationObserver,
    AssociationPolicy,
    CloseReason,
    Knock,
    Peer,
    Receiver,
    Request,
    Response,
    ServiceError,
)
from broker.dicom.network.states import Role, State
from broker.dicom.network.upper_layer import (
    AssociationRequested,
    DataReceived,
    Event,
    PeerAborted,
    PeerViolated,
    ReleaseRequested,
    UpperLayer,
)

log = structlog.get_logger(__name__)

PENDING: Final = frozenset({0xFF00, 0xFF01})
SUCCESS: Final = Response(0x0000)
CANCELLED: Final = Response(0xFE00)
_FLUSH_BYTES: Final = 64 * 1024
_FLUSH_S: Final = 0.05
_POLL_S: Final = 0.002
_SAID: Final = frozenset({State.AWAITING_CLOSE, State.IDLE})


class Place(Protocol):
    """Be one connection's place among the others of its listener."""

    def take_association(self) -> bool:
        """Move from the newcomers to the associations; False when there is no room."""

    def is_stopping(self) -> bool:
        """Tell whether the listener stops."""

    idle: bool
    """Set while the association may be interrupted without harm."""


class Ended(Exception):
    """The association is over."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(slots=True)
class _Patience:
    """Count how long the peer let us wait, and what it earned with its bytes."""

    pdus_seen: int = 0
    pdu_waited_s: float = 0.0
    message_waited_s: float = 0.0
    message_bytes: int = 0


class ServedAssociation:
    """Be the acceptor's end of one association, over a channel that is open."""

    def __init__(
        self,
        channel: Channel,
        place: Place,
        *,
        association_id: str,
        address: str,
        tls_subject: str | None,
        negotiator: Negotiator,
        policy: AssociationPolicy,
        limits: ServerLimits,
        observer: AssociationObserver,
    ) -> None:
        self._channel = channel
        self._place = place
        self._association_id = association_id
        self._address = address
        self._tls_subject = tls_subject
        self._negotiator = negotiator
        self._policy = policy
        self._limits = limits
        self._observer = observer
        self._upper = UpperLayer(Role.ACCEPTOR, limits.pdu)
        self._collector = CommandCollector()
        self._patience = _Patience()
        self._in_message = False
        self._waiting: tuple[int, Command] | None = None  # a command that came while another was served
        self._waiting_event: Event | None = None  # likewise a release, an abort or a violation
        self._lost = False
        self._cancelled = False
        self._serving_message_id: int | None = None
        self._told: set[int] = set()  # statuses of refusals that have been logged
        self._polled_at = 0.0
        self._idle_s = limits.idle_s
        self._payload_bytes = 0
        self._contexts: dict[int, AgreedContext] = {}
        self._peer: Peer

    def run(self, *, first_pdu_deadline: float) -> bool:
        """Serve from the first byte to the last; raises nothing that a peer can cause.

        Returns whether we had the last word, so that the peer needs a moment to read it and to close (Sta13).
        """
        agreement = self._establish(first_pdu_deadline)
        if agreement is None:
            return self._upper.state is State.AWAITING_CLOSE
        request = agreement.request
        self._peer = Peer(
            association_id=self._association_id,
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            address=self._address,
            tls_subject=self._tls_subject,
            implementation_class_uid=request.implementation_class_uid,
            implementation_version=request.implementation_version,
            max_pdu_bytes=request.max_pdu_bytes,
        )
        self._contexts = agreement.contexts
        self._payload_bytes = largest_payload(request.max_pdu_bytes)
        if agreement.idle_timeout_s is not None:
            self._idle_s = agreement.idle_timeout_s
        self._observer.opened(self._peer)
        reason = CloseReason.FAILED
        try:
            self._serve()
        except Ended as ended:
            reason = ended.reason
        except PeerDoesNotRead:  # an A-ABORT in the middle of a PDU would be no A-ABORT, nor would it be read
            reason = CloseReason.TOO_SLOW
            self._upper.transport_closed()
        except TimeoutError:
            reason = CloseReason.TOO_SLOW
            self._abort(AbortSource.SERVICE_PROVIDER, AbortReason.NOT_SPECIFIED)
        except OSError:
            reason = CloseReason.CONNECTION_LOST
        finally:
            self._observer.closed(self._peer, reason)
        return self._upper.state is State.AWAITING_CLOSE

    # ── establishment ───────────────────────────────────────────────────────────────────────────────────

    def _establish(self, deadline: float) -> Agreement | None:
        """Bring the association to Sta6, or refuse it."""
        upper = self._upper
        try:
            while (event := upper.next_event()) is None:
                count = self._channel.receive_into(upper.receive_space(), deadline - time.monotonic())
                if count == 0:
                    self._knock("the connection was closed before an association was requested")
                    return None
                upper.received(count)
                if time.monotonic() > deadline:
                    raise TimeoutError
            if not isinstance(event, AssociationRequested):
                what = event.what if isinstance(event, PeerViolated) else "the peer aborted at once"
                if isinstance(event, PeerViolated):
                    self._say(upper.take_output())
                    self._channel.finish_sending()
                self._knock(what)
                return None
            try:
                agreement = self._negotiator.agree(event.raw)
            except MalformedPdu as malformed:
                self._abort(AbortSource.SERVICE_PROVIDER, malformed.reason)
                self._knock(malformed.what)
                return None
            rejection = self._judge(agreement.request)
            if rejection is not None:
                self._say(upper.reject(rejection))
                self._knock("the association was rejected", agreement.request, rejection)
                return None
            self._say(upper.accept(agreement.encoded_accept))
        except TimeoutError:
            self._knock("no association was requested in time")
            return None
        except OSError:
            self._knock("the connection was lost before an association was requested")
            return None
        return agreement

    def _judge(self, request: pdu.AssociateRequest) -> Rejection | None:
        if not request.protocol_version & pdu.PROTOCOL_VERSION:  # PS3.8 9.3.2: bit 0 is version 1
            return pdu.PROTOCOL_VERSION_NOT_SUPPORTED
        if request.application_context != pdu.APPLICATION_CONTEXT_UID:
            return pdu.APPLICATION_CONTEXT_NOT_SUPPORTED
        if not pdu.is_ae_title(request.calling_ae_title):
            return pdu.CALLING_AE_TITLE_NOT_RECOGNIZED
        if not pdu.is_ae_title(request.called_ae_title):
            return pdu.CALLED_AE_TITLE_NOT_RECOGNIZED
        if not request.contexts:
            return pdu.NO_REASON_GIVEN
        # A peer that takes only a few bytes at a time would make every answer cost a thousand PDUs.
        if 0 < request.max_pdu_bytes < self._limits.smallest_peer_pdu_bytes:
            return pdu.NO_REASON_GIVEN
        rejection = self._policy.admit(
            request.calling_ae_title, request.called_ae_title, self._address, self._tls_subject
        )
        if rejection is not None:
            return rejection
        if not self._place.take_association():
            return pdu.LOCAL_LIMIT_EXCEEDED
        return None

    def _knock(
        self,
        reason: str,
        request: pdu.AssociateRequest | None = None,
        rejection: Rejection | None = None,
    ) -> None:
        self._observer.refused(
            Knock(
                address=self._address,
                calling_ae_title=_shown(request.calling_ae_title) if request else None,
                called_ae_title=_shown(request.called_ae_title) if request else None,
                tls_subject=self._tls_subject,
                rejection=rejection,
                reason=reason,
            )
        )

    # ── the life of the association ─────────────────────────────────────────────────────────────────────

    def _serve(self) -> None:
        while True:
            if self._waiting is not None:
                context_id, command = self._waiting
                self._waiting = None
                self._message(context_id, command)
                continue
            event = self._next_event()
            if not isinstance(event, DataReceived):
                self._end(event)
                return
            self._in_message = True
            try:
                whole = self._collector.feed(event)
            except MalformedCommand as malformed:
                self._violated(str(malformed))
            if whole is not None:
                self._message(*whole)

    def _next_event(self) -> Event:
        if self._waiting_event is not None:
            event, self._waiting_event = self._waiting_event, None
            return event
        if self._lost:
            raise Ended(CloseReason.CONNECTION_LOST)
        while (next_event := self._upper.next_event()) is None:
            self._receive()
        return next_event

    def _receive(self) -> None:
        """Wait for bytes: patiently between messages, strictly inside one."""
        upper = self._upper
        if self._in_message or not upper.is_between_pdus:
            count = self._receive_strictly()
        else:
            count = self._receive_idle()
        if count == 0:
            upper.transport_closed()
            raise Ended(CloseReason.CONNECTION_LOST)
        upper.received(count)

    def _receive_strictly(self) -> int:
        patience, limits, upper = self._patience, self._limits, self._upper
        if patience.pdus_seen != upper.pdus_received:
            patience.pdus_seen = upper.pdus_received
            patience.pdu_waited_s = 0.0
        left = min(
            limits.pdu_s - patience.pdu_waited_s,
            limits.pdu_s + patience.message_bytes / limits.min_bytes_per_s - patience.message_waited_s,
        )
        if left <= 0:
            raise TimeoutError
        before = time.monotonic()
        space = upper.receive_space()
        if upper.payload_left:  # known to come: one call for all of it
            count = self._channel.receive_all_into(space[: upper.payload_left], left)
        else:
            count = self._channel.receive_into(space, left)
        waited = time.monotonic() - before
        patience.pdu_waited_s += waited
        patience.message_waited_s += waited
        return count

    def _receive_idle(self) -> int:
        upper, place, limits = self._upper, self._place, self._limits
        patience = self._patience
        patience.pdu_waited_s = patience.message_waited_s = 0.0
        patience.message_bytes = 0
        place.idle = True
        try:
            if place.is_stopping():
                self._stop()
            first = min(limits.shrink_after_s, self._idle_s)
            try:
                count = self._channel.receive_into(upper.receive_space(), first)
            except TimeoutError:
                upper.shrink()
                count = self._channel.receive_into(upper.receive_space(), self._idle_s - first)
        except TimeoutError:
            self._abort(AbortSource.SERVICE_PROVIDER, AbortReason.NOT_SPECIFIED)
            raise Ended(CloseReason.IDLE) from None
        finally:
            place.idle = False
        if count == 0 and place.is_stopping():
            self._stop()
        return count

    def _stop(self) -> None:
        self._abort(AbortSource.SERVICE_USER, AbortReason.NOT_SPECIFIED)
        raise Ended(CloseReason.STOPPED)

    def _end(self, event: Event) -> None:
        """End the association as the event wants it."""
        if isinstance(event, ReleaseRequested):
            self._say(self._upper.confirm_release())
            raise Ended(CloseReason.RELEASED)
        if isinstance(event, PeerAborted):
            raise Ended(CloseReason.PEER_ABORTED)
        if isinstance(event, PeerViolated):
            output = self._upper.take_output()
            if not output:  # seen by the DIMSE layer while another request was served
                self._violated(event.what)
            log.warning("association_violated", association_id=self._association_id, what=event.what)
            self._say(output)
            self._channel.finish_sending()
        raise Ended(CloseReason.VIOLATION)

    def _violated(self, what: str) -> None:
        """Abort because the DIMSE layer found what PS3.7 does not allow."""
        log.warning("association_violated", association_id=self._association_id, what=what)
        self._abort(AbortSource.SERVICE_PROVIDER, AbortReason.INVALID_PARAMETER)
        raise Ended(CloseReason.VIOLATION)

    def _abort(self, source: AbortSource, reason: AbortReason) -> None:
        if self._upper.state in _SAID:
            return  # a peer that does not take our last word would not take another
        try:
            self._say(self._upper.abort(source, reason))
            self._channel.finish_sending()
        except OSError:
            log.debug("abort_not_delivered", association_id=self._association_id)

    def _say(self, *parts: Buffer) -> None:
        self._channel.send(parts, timeout_s=self._limits.send_s, min_bytes_per_s=self._limits.min_bytes_per_s)

    # ── one message ─────────────────────────────────────────────────────────────────────────────────────

    def _message(self, context_id: int, command: Command) -> None:
        agreed = self._contexts.get(context_id)
        if agreed is None:
            self._violated("a command came on a context that was not accepted")
            return
        if command.field is CommandField.C_CANCEL_RQ:
            self._in_message = False  # what it wanted to cancel is answered already: PS3.7 9.3.2.3
            return
        if command.field.is_response or command.message_id is None:
            self._violated("a response came, or a request without a message id")
        started = time.monotonic()
        request = Request(self._peer, agreed.context, command, started)
        refusal = refusal_of(command, agreed)
        if (
            refusal is not None and refusal.status not in self._told
        ):  # each kind once: a peer may try a million
            self._told.add(refusal.status)
            tell_refusal(request, refusal)
        receiver: Receiver | None = None
        data_set_bytes = 0
        try:
            if refusal is None:
                try:
                    receiver = agreed.offer.service.begin(request)
                except Exception as error:
                    refusal = self._answer_to(error, command)
            if command.has_data_set:
                early, data_set_bytes = self._take_data_set(request, agreed, receiver)
                refusal = refusal or early
            self._in_message = False
            if receiver is None or refusal is not None:
                status = self._answer(request, (refusal,) if refusal is not None else ())
            else:
                finishing, receiver = receiver, None
                status = self._answer(request, self._responses(finishing, command))
        finally:
            if receiver is not None:
                self._abandon(receiver)
        self._observer.served(
            request, status, seconds=time.monotonic() - started, data_set_bytes=data_set_bytes
        )

    def _take_data_set(
        self, request: Request, agreed: AgreedContext, receiver: Receiver | None
    ) -> tuple[Response | None, int]:
        """Hand the data set on as it comes; return an early refusal and the size."""
        limit = agreed.offer.data_set_limit_bytes
        command, context_id, patience = request.command, request.context.id, self._patience
        next_event = self._upper.next_event
        refusal: Response | None = None
        total = 0
        while True:
            event = next_event()
            if event is None:
                self._receive()
                continue
            if not isinstance(event, DataReceived):
                self._end(event)
                continue
            if event.is_command or event.context_id != context_id:
                self._violated("a data set is interrupted")
            data = event.data
            total += len(data)
            patience.message_bytes = total
            if receiver is not None and refusal is None:
                if limit is not None and total > limit:
                    refusal = too_large(command)
                else:
                    try:
                        receiver.write(data)
                    except Exception as error:
                        refusal = self._answer_to(error, command)
            elif total > self._limits.drained_bytes:
                self._violated("a refused data set does not end")
            if event.is_last:
                return refusal, total

    def _responses(self, receiver: Receiver, command: Command) -> Iterator[Response]:
        """Yield what the receiver answers; what it raises becomes the last answer."""
        try:
            yield from receiver.finish(self._is_cancelled)
        except Exception as error:
            yield self._answer_to(error, command)

    def _answer_to(self, error: Exception, command: Command) -> Response:
        if isinstance(error, ServiceError):
            return error.response
        return failure_of(error, command, association_id=self._association_id)

    def _abandon(self, receiver: Receiver) -> None:
        try:
            receiver.abandon()
        except Exception as error:
            failure_of(error, None, association_id=self._association_id)

    def _answer(self, request: Request, responses: Iterable[Response]) -> int:
        """Send the answers, pending ones in batches; return the last status."""
        command = request.command
        self._cancelled = False
        self._serving_message_id = command.message_id
        batch: list[bytes] = []
        batched = 0
        flushed_at = time.monotonic()
        context_id, payload_bytes = request.context.id, self._payload_bytes
        heads: dict[int, bytes] = {}  # of pending answers that say nothing but their status
        final: Response | None = None
        iterator = iter(responses)
        try:
            for response in iterator:
                status, data_set = response.status, response.data_set
                if status not in PENDING:
                    final = response
                    break
                if data_set is None or len(data_set) > payload_bytes or response[2:] != ONLY_STATUS:
                    pdus = self._pdus(request, response)
                    batch += pdus
                    batched += sum(map(len, pdus))
                else:
                    head = heads.get(status)
                    if head is None:
                        *command_pdus, _ = self._pdus(request, response)
                        head = heads[status] = b"".join(command_pdus)
                    batch += (head, data_header(context_id, LAST_BIT, len(data_set)), data_set)
                    batched += len(head) + DATA_HEADER_BYTES + len(data_set)
                now = time.monotonic()
                if batched >= _FLUSH_BYTES or now - flushed_at > _FLUSH_S:
                    self._send_data(batch)
                    batch, batched, flushed_at = [], 0, now
                    if self._is_cancelled():
                        break
        finally:
            self._serving_message_id = None
            close = getattr(iterator, "close", None)  # a generator: let it free what it holds
            if close is not None:
                close()
        if final is None:
            final = CANCELLED if self._cancelled else self._without_answer(command)
        batch += self._pdus(request, final)
        self._send_data(batch)
        return final.status

    def _pdus(self, request: Request, response: Response) -> list[bytes]:
        command = encoded_response(request.command, response)
        return list(
            message_pdus(request.context.id, command, response.data_set, payload_bytes=self._payload_bytes)
        )

    def _send_data(self, batch: list[bytes]) -> None:
        if self._lost:
            raise Ended(CloseReason.CONNECTION_LOST)
        if isinstance(self._waiting_event, PeerAborted | PeerViolated):
            self._end(self._waiting_event)
        self._upper.data()
        # One piece: copying a batch costs less than handing the kernel its parts.
        whole = batch if len(batch) == 1 else (b"".join(batch),)
        self._channel.send(whole, timeout_s=self._limits.send_s, min_bytes_per_s=self._limits.min_bytes_per_s)

    def _without_answer(self, command: Command) -> Response:
        if command.field in (CommandField.C_FIND_RQ, CommandField.C_MOVE_RQ, CommandField.C_GET_RQ):
            return SUCCESS
        missing = RuntimeError("a service gave no answer")
        return failure_of(missing, command, association_id=self._association_id)

    # ── cancel ──────────────────────────────────────────────────────────────────────────────────────────

    def _is_cancelled(self) -> bool:
        """Tell whether the peer cancelled, aborted or left; looks at the connection at most every 2 ms."""
        if self._cancelled or self._lost or self._waiting_event is not None:
            return True
        now = time.monotonic()
        if self._waiting is None and now - self._polled_at >= _POLL_S:
            self._polled_at = now
            self._look()
        return self._cancelled or self._lost or self._waiting_event is not None

    def _look(self) -> None:
        """Read what is already here, and no further than the first thing that is not a C-CANCEL."""
        upper = self._upper
        while True:
            event = upper.next_event()
            if event is None:
                try:
                    count = self._channel.receive_now(upper.receive_space())
                except OSError:
                    count = 0
                if count is None:
                    return
                if count == 0:
                    self._lost = True
                    return
                upper.received(count)
                continue
            if not isinstance(event, DataReceived):
                self._waiting_event = event
                return
            try:
                whole = self._collector.feed(event)
            except MalformedCommand as malformed:
                # Not raised here: a service stands between us and the loop that ends the association.
                self._waiting_event = PeerViolated(str(malformed), AbortReason.INVALID_PARAMETER)
                return
            if whole is None:
                continue
            _context_id, command = whole
            if command.field is not CommandField.C_CANCEL_RQ:
                self._waiting = whole
                return
            if command.message_id_being_responded_to == self._serving_message_id:
                self._cancelled = True


def _shown(title: str) -> str:
    """Return a peer's AE title without anything that could forge a log line."""
    return "".join(character if character.isprintable() else "?" for character in title)[:16]
