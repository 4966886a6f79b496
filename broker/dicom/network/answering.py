"""Send the answers to one request: pending ones in batches, the last one at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from broker.dicom.network.channel import Channel
from broker.dicom.network.dimse import CommandField, largest_payload, message_pdus
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.meanwhile import Meanwhile
from broker.dicom.network.pdu import LAST_BIT, data_header
from broker.dicom.network.requests import encoded_response, failure_of
from broker.dicom.network.service import Matches, Request, Response
from broker.dicom.network.upper_layer import UpperLayer

PENDING: Final = frozenset({0xFF00, 0xFF01})
SUCCESS: Final = Response(0x0000)
CANCELLED: Final = Response(0xFE00)
_QUERIES: Final = (CommandField.C_FIND_RQ, CommandField.C_MOVE_RQ, CommandField.C_GET_RQ)
_FLUSH_BYTES: Final = 64 * 1024
_FLUSH_S: Final = 0.05


class NobodyToAnswer(Exception):
    """The peer left, aborted or broke the protocol while its request was served."""


class Answers:
    """Be the way back to the requestor of one association."""

    __slots__ = ("_channel", "_limits", "_meanwhile", "_payload_bytes", "_upper")

    def __init__(
        self,
        upper: UpperLayer,
        channel: Channel,
        meanwhile: Meanwhile,
        limits: ServerLimits,
        max_pdu_bytes: int,
    ) -> None:
        """Take the association's parts, and how much of a PDU its peer takes."""
        self._upper = upper
        self._channel = channel
        self._meanwhile = meanwhile
        self._limits = limits
        self._payload_bytes = largest_payload(max_pdu_bytes)

    def send(self, request: Request, responses: Iterable[Response | Matches]) -> int:
        """Send them all and return the last status; NobodyToAnswer when there is no use in it."""
        meanwhile = self._meanwhile
        meanwhile.serve(request.command.message_id)
        batch: list[bytes] = []
        batched = 0
        flushed_at = time.monotonic()
        final: Response | None = None
        iterator = iter(responses)
        try:
            for response in iterator:
                if isinstance(response, Matches):
                    pdus = self._matches(request, response)
                elif response.status in PENDING:
                    pdus = self._pdus(request, response)
                else:
                    final = response
                    break
                batch += pdus
                batched += sum(map(len, pdus))
                now = time.monotonic()
                if batched >= _FLUSH_BYTES or now - flushed_at > _FLUSH_S:
                    self._send(batch)
                    batch, batched, flushed_at = [], 0, now
                    if meanwhile.is_cancelled():
                        break
        finally:
            meanwhile.serve(None)
            close = getattr(iterator, "close", None)  # a generator: let it free what it holds
            if close is not None:
                close()
        if final is None:
            final = CANCELLED if meanwhile.cancelled else _without_answer(request)
        batch += self._pdus(request, final)
        self._send(batch)
        return final.status

    def _matches(self, request: Request, matches: Matches) -> list[bytes]:
        """Write pending answers that differ in their data sets only."""
        context_id, payload_bytes = request.context.id, self._payload_bytes
        *command_pdus, _ = self._pdus(request, Response(matches.status, b""))
        head = b"".join(command_pdus)
        pdus: list[bytes] = []
        for data_set in matches.data_sets:
            size = len(data_set)
            if size <= payload_bytes:
                pdus += (head, data_header(context_id, LAST_BIT, size), data_set)
            else:
                pdus += self._pdus(request, Response(matches.status, data_set))
        return pdus

    def _pdus(self, request: Request, response: Response) -> list[bytes]:
        command = encoded_response(request.command, response)
        return message_pdus(request.context.id, command, response.data_set, payload_bytes=self._payload_bytes)

    def _send(self, batch: list[bytes]) -> None:
        if self._meanwhile.is_fatal:
            raise NobodyToAnswer
        self._upper.data()
        # One piece: copying a batch costs less than handing the kernel its parts.
        whole = batch if len(batch) == 1 else (b"".join(batch),)
        self._channel.send(whole, timeout_s=self._limits.send_s, min_bytes_per_s=self._limits.min_bytes_per_s)


def _without_answer(request: Request) -> Response:
    if request.command.field in _QUERIES:
        return SUCCESS
    missing = RuntimeError("a service gave no answer")
    return failure_of(missing, request.command, association_id=request.peer.association_id)
