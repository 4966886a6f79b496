"""Serves the Modality Worklist SOP class (RAD-5, PS3.4 annex K)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import structlog

from broker.dicom.network.dimse import CommandField
from broker.dicom.network.service import BufferedReceiver, Matches, Receiver, Request, Response, ServiceOffer
from broker.dicom.objects.answers import (
    UNICODE,
    AnswerCache,
    AnswerStyle,
    AnswerWriter,
    answer_writer,
)
from broker.dicom.objects.elements import DEFAULT_LIMITS, Limits, MalformedDataSet, Syntax
from broker.dicom.objects.identifier import IdentifierRefused, read_identifier
from broker.dicom.services.query_log import QueryLog, QueryRecord
from broker.domain.character_sets import canonical_dicom_terms
from broker.domain.devices import DEFAULT_DEVICE, DeviceProfile
from broker.domain.matching import WorklistQuery
from broker.errors import OutOfResources
from broker.workflow.worklist import Worklist

log = structlog.get_logger(__name__)

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
_PENDING, _PENDING_WARNING = 0xFF00, 0xFF01  # PS3.4 table K.4-1
_SUCCESS, _CANCELLED = 0x0000, 0xFE00
_OUT_OF_RESOURCES, _NOT_A_WORKLIST_QUERY, _CANNOT_PROCESS = 0xA700, 0xA900, 0xC103
_STEPS_RECORDED = 100
_WRITTEN_TOGETHER = 50
_REMEMBERED_BYTES = 4 * 1024
_MAX_REMEMBERED = 1024
_MAX_COMMENT = 64

Devices = Callable[[str], DeviceProfile]
"""Finds the profile of a calling AE title."""


class _Question(NamedTuple):
    """An identifier that was understood, with what it takes to answer it."""

    query: WorklistQuery
    writer: AnswerWriter
    pending: int
    keys: tuple[str, ...]
    """The keys that have a value."""
    unreadable: list[str]
    """Matching keys that were ignored for what they hold."""


class WorklistService:
    """Answers C-FIND."""

    def __init__(
        self,
        worklist: Worklist,
        *,
        devices: Devices = lambda _: DEFAULT_DEVICE,
        query_log: QueryLog | None = None,
        character_set: tuple[str, ...] = ("ISO_IR 100",),
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._worklist = worklist
        self._devices = devices
        self._query_log = query_log
        self._character_set = character_set
        self._limits = limits
        self._answers = AnswerCache()
        self._questions: dict[tuple[bytes, str, str], tuple[DeviceProfile, _Question]] = {}

    def begin(self, request: Request) -> Receiver:
        """Start answering one query."""
        return BufferedReceiver(lambda data, cancelled: self._answer(request, data, cancelled))

    def _answer(
        self, request: Request, data: bytes, cancelled: Callable[[], bool]
    ) -> Iterable[Response | Matches]:
        device = self._devices(request.peer.calling_ae_title)
        try:
            question = self._understand(request, data, device)
        except IdentifierRefused as error:
            return self._refuse(request, _NOT_A_WORKLIST_QUERY, str(error), error.elements)
        except MalformedDataSet as error:
            return self._refuse(request, _NOT_A_WORKLIST_QUERY, str(error), ())
        if question.unreadable:  # without values: the name of an attribute and what is wrong
            log.info(
                "query keys ignored", association=request.peer.association_id, keys=question.unreadable[:10]
            )
        return self._stream(request, question, device, cancelled, data)

    def _understand(self, request: Request, data: bytes, device: DeviceProfile) -> _Question:
        """Read an identifier, or know it from before: a device sends the same bytes all day."""
        title, transfer_syntax = request.peer.calling_ae_title, request.context.transfer_syntax
        key = (data, transfer_syntax, title)
        known = self._questions.get(key)
        if known is not None and known[0] is device:
            return known[1]
        syntax = Syntax(transfer_syntax)
        identifier = read_identifier(data, syntax, device=device, calling_ae_title=title, limits=self._limits)
        style = _style(device, identifier.character_set, syntax, self._character_set)
        query = identifier.query
        warns = device.warns_of_unsupported and identifier.has_unsupported_keys
        question = _Question(
            query,
            answer_writer(identifier.keys, style),
            _PENDING_WARNING if warns else _PENDING,
            tuple(sorted(key.value for key in query.keys)),
            [one for one in query.ignored if not one.startswith("(")],
        )
        if len(data) <= _REMEMBERED_BYTES:
            if len(self._questions) >= _MAX_REMEMBERED:
                self._questions.clear()
            self._questions[key] = device, question
        return question

    def _stream(
        self,
        request: Request,
        question: _Question,
        device: DeviceProfile,
        cancelled: Callable[[], bool],
        data: bytes,
    ) -> Iterator[Response | Matches]:
        started = time.monotonic()
        status, count = _SUCCESS, 0
        steps: list[int] = []
        try:
            found = self._worklist.find(question.query, device)
            while answers := list(islice(found, _WRITTEN_TOGETHER)):
                count += len(answers)
                if len(steps) < _STEPS_RECORDED:
                    steps += [answer.step for answer in answers]
                yield Matches(question.pending, self._answers.write(question.writer, answers))
        except OutOfResources as error:
            status = _OUT_OF_RESOURCES
            log.warning("query not answered", association=request.peer.association_id, error=str(error))
            yield Response(status, error_comment=str(error)[:_MAX_COMMENT])
        except Exception:
            status = _CANNOT_PROCESS
            log.exception("query failed", association=request.peer.association_id)
            yield Response(status, error_comment="internal error")
        finally:
            # Also when the peer cancels or goes away: then the engine closes this generator.
            if status == _SUCCESS and cancelled():
                status = _CANCELLED
            cut = device.max_results if device.max_results == count else None
            self._record(request, question, status, count, tuple(steps[:_STEPS_RECORDED]), started, cut, data)

    def _refuse(
        self, request: Request, status: int, reason: str, elements: tuple[int, ...]
    ) -> tuple[Response, ...]:
        log.info("query refused", association=request.peer.association_id, reason=reason)
        return (Response(status, error_comment=reason[:_MAX_COMMENT], offending_elements=elements),)

    def _record(
        self,
        request: Request,
        question: _Question,
        status: int,
        count: int,
        steps: tuple[int, ...],
        started: float,
        cut_at: int | None,
        data: bytes,
    ) -> None:
        if self._query_log is None:
            return
        is_kept = self._query_log.keeps_identifiers and len(data) <= _REMEMBERED_BYTES
        self._query_log.record(
            QueryRecord(
                request.peer.calling_ae_title,
                request.peer.association_id,
                question.keys,
                question.query.ignored,
                status,
                count,
                steps,
                (time.monotonic() - started) * 1000.0,
                cut_at,
                data if is_kept else b"",
                request.context.transfer_syntax if is_kept else "",
            )
        )


@lru_cache(maxsize=1024)
def _style(
    device: DeviceProfile,
    requested: tuple[str, ...] | None,
    syntax: Syntax,
    default: tuple[str, ...],
) -> AnswerStyle:
    """Choose how to answer: the device's character set, else the request's, else the listener's."""
    sets: tuple[tuple[str, ...], ...]
    if device.character_set:
        sets = (canonical_dicom_terms(device.character_set) or device.character_set,)
    elif requested is not None:
        sets = (requested, default)
    else:
        sets = (default,)
    unicode_allowed = device.unicode_allowed
    if unicode_allowed is None:
        unicode_allowed = not device.character_set or device.character_set == UNICODE
    return AnswerStyle(
        syntax=syntax,
        character_sets=sets,
        unicode_allowed=unicode_allowed,
        umlauts_as_two=device.umlauts_as_two,
        always_character_set=device.always_character_set,
        omit_empty_sequences=device.omit_empty_sequences,
        single_code=device.single_code,
        alphabetic_only=device.alphabetic_only,
    )


def granted(proposed: bytes) -> bytes:
    """Answer the extended negotiation of the worklist: combined date and time always, nothing fuzzy (K.5.1)."""
    return b"\x01\x01" + bytes(max(len(proposed), 3) - 2)


def worklist_offer(service: WorklistService) -> ServiceOffer:
    """Offer the Modality Worklist SOP class."""
    return ServiceOffer(
        abstract_syntax=MODALITY_WORKLIST,
        transfer_syntaxes=(
            Syntax.EXPLICIT_LITTLE.value,
            Syntax.IMPLICIT_LITTLE.value,
            Syntax.EXPLICIT_BIG.value,
        ),
        service=service,
        operations=frozenset({CommandField.C_FIND_RQ}),
        data_set_limit_bytes=DEFAULT_LIMITS.data_set_bytes,
        extended_negotiation=granted,
    )
