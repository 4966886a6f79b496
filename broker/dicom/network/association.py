"""Serve one association: read commands, let the offered services answer, keep every deadline.

The thread that runs this blocks in the kernel while the peer is silent. While a request is being served
nothing more is read than what is needed to see a C-CANCEL or an abort: the peer's other requests wait in
the peer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from broker.dicom.network.answering import Answers, NobodyToAnswer
from broker.dicom.network.channel import Channel, PeerDoesNotRead
from broker.dicom.network.dimse import Command, CommandCollector, CommandField, MalformedCommand
from broker.dicom.network.meanwhile import Meanwhile
from broker.dicom.network.negotiation import AgreedContext, Agreement
from broker.dicom.network.pdu import AbortReason, AbortSource
from broker.dicom.network.reception import Place, Reception
from broker.dicom.network.requests import failure_of, refusal_of, tell_refusal, too_large
from broker.dicom.network.service import CloseReason, Matches, Peer, Receiver, Request, Response, ServiceError
from broker.dicom.network.states import Role, State
from broker.dicom.network.upper_layer import (
    DataReceived,
    Event,
    PeerAborted,
    PeerViolated,
    ReleaseRequested,
    UpperLayer,
)

log = structlog.get_logger(__name__)

_SAID: Final = frozenset({State.AWAITING_CLOSE, State.IDLE})


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

    def __init__(self, channel: Channel, place: Place, reception: Reception) -> None:
        """Nothing has been received yet."""
        limits = reception.limits
        self._channel = channel
        self._place = place
        self._reception = reception
        self._association_id = place.association_id
        self._limits = limits
        self._upper = UpperLayer(Role.ACCEPTOR, limits.pdu)
        self._collector = CommandCollector()
        self._meanwhile = Meanwhile(self._upper, channel, self._collector)
        self._patience = _Patience()
        self._in_message = False
        self._told: set[int] = set()  # statuses of refusals that have been logged
        self._idle_s = limits.idle_s
        self._contexts: dict[int, AgreedContext] = {}
        self._peer: Peer
        self._answers: Answers

    def run(self, *, first_pdu_deadline: float) -> bool:
        """Serve from the first byte to the last; raises nothing that a peer can cause.

        Returns whether we had the last word, so that the peer needs a moment to read it and to close (Sta13).
        """
        agreement = self._reception.establish(
            self._upper, self._channel, self._place, deadline=first_pdu_deadline
        )
        if agreement is None:
            return self._upper.state is State.AWAITING_CLOSE
        self._begin(agreement)
        observer = self._reception.observer
        observer.opened(self._peer)
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
            observer.closed(self._peer, reason)
        return self._upper.state is State.AWAITING_CLOSE

    def _begin(self, agreement: Agreement) -> None:
        request, place = agreement.request, self._place
        self._peer = Peer(
            place.association_id,
            request.calling_ae_title,
            request.called_ae_title,
            place.address,
            place.tls_subject,
            request.implementation_class_uid,
            request.implementation_version,
            request.max_pdu_bytes,
        )
        self._contexts = agreement.contexts
        self._answers = Answers(
            self._upper, self._channel, self._meanwhile, self._limits, request.max_pdu_bytes
        )
        if agreement.idle_timeout_s is not None:
            self._idle_s = agreement.idle_timeout_s

    # ── the life of the association ─────────────────────────────────────────────────────────────────────

    def _serve(self) -> None:
        while True:
            if self._meanwhile.command is not None:
                context_id, command = self._meanwhile.command
                self._meanwhile.command = None
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
        meanwhile = self._meanwhile
        if meanwhile.event is not None:
            event, meanwhile.event = meanwhile.event, None
            return event
        if meanwhile.lost:
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
            log.warning("association violated", association=self._association_id, what=event.what)
            self._say(output)
            self._channel.finish_sending()
        raise Ended(CloseReason.VIOLATION)

    def _violated(self, what: str) -> None:
        """Abort because the DIMSE layer found what PS3.7 does not allow."""
        log.warning("association violated", association=self._association_id, what=what)
        self._abort(AbortSource.SERVICE_PROVIDER, AbortReason.INVALID_PARAMETER)
        raise Ended(CloseReason.VIOLATION)

    def _abort(self, source: AbortSource, reason: AbortReason) -> None:
        if self._upper.state in _SAID:
            return  # a peer that does not take our last word would not take another
        try:
            self._say(self._upper.abort(source, reason))
            self._channel.finish_sending()
        except OSError:
            log.debug("abort not delivered", association=self._association_id)

    def _say(self, output: bytes) -> None:
        self._channel.send(
            (output,), timeout_s=self._limits.send_s, min_bytes_per_s=self._limits.min_bytes_per_s
        )

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
                status = self._answers.send(request, (refusal,) if refusal is not None else ())
            else:
                finishing, receiver = receiver, None
                status = self._answers.send(request, self._responses(finishing, command))
        except NobodyToAnswer:
            self._end(self._next_event())
            raise
        finally:
            if receiver is not None:
                self._abandon(receiver)
        self._reception.observer.served(
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

    def _responses(self, receiver: Receiver, command: Command) -> Iterator[Response | Matches]:
        """Yield what the receiver answers; what it raises becomes the last answer."""
        try:
            yield from receiver.finish(self._meanwhile.is_cancelled)
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
