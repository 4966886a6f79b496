"""Takes HL7 messages in: decode, recognise repeats, map, apply, keep the raw text, answer (IHE RAD-2/4/12/13).

A batch is one transaction with a savepoint per message, and nothing is acknowledged before its commit.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import Final

import structlog

from broker.domain.events import Event, EventName, Subject
from broker.errors import BrokerError, Conflict, IllegalTransition, InvalidValue, NotFound, OutOfResources
from broker.failpoints import failpoint
from broker.hl7.ack import Header, Problem, Severity, Verdict, acknowledgements, build_ack, verdict_of
from broker.hl7.charsets import (
    LATIN_1,
    Charset,
    CharsetNotTransportableError,
    DecodedText,
    charset_named,
    decode,
)
from broker.hl7.exchange import HANG_UP, JUNK, Answer, InboundMessage
from broker.hl7.mapping import Mapped, MappingSet, MessageMapping, Request
from broker.hl7.tokenizer import (
    Limits,
    Message,
    MessageTooComplexError,
    NoHeaderError,
    Path,
    Segment,
    tokenize,
)
from broker.workflow.clock import Clock
from broker.workflow.messages_port import MessageOutcome, StoredMessage
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Applied:
    """Says what a request came to: the order it was about, and what a person should know."""

    order: int | None = None
    warnings: tuple[str, ...] = ()


Apply = Callable[[Request, UnitOfWork], Applied]
"""Applies one request in the open transaction: the use cases, with clock, encoder and policy in place."""

_PEERS_NAMED = 5
MAX_INTERNAL_FAILURES: Final = 3
"""A message that fails us this often is set aside, or it would block every message behind it."""

REPEAT_WINDOW: Final = timedelta(days=7)
_HEADER_BYTES: Final = 4096
_CONTROL_ID_CHARACTERS: Final = 199
"""HL7 v2.9 MSH-10; the content tells apart what a longer one would."""
_HEADER_LIMITS: Final = Limits(max_repetitions=_HEADER_BYTES)
_KEPT_OF_JUNK_BYTES: Final = 64 * 1024
_TYPE: Final = re.compile(r"[A-Z]{3}(\^[A-Z]\d\d)?")
"""What else stands in MSH-9 may be anything, also a name: it is not logged."""
_ANSWERED: Final = frozenset({MessageOutcome.ACCEPTED, MessageOutcome.IGNORED, MessageOutcome.PARKED})


@dataclass(frozen=True, slots=True)
class _Read:
    """A message as far as it could be read."""

    message: Message
    header: Header
    sender: tuple[str, str]
    """Sending application and facility, without the rest of their HD."""
    charset: Charset
    mapping: MessageMapping
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Result:
    """What is to be kept and answered."""

    outcome: MessageOutcome
    verdict: Verdict
    problems: tuple[Problem, ...] = ()
    order: int | None = None
    silent: bool = False


class _Known(Enum):
    """Whether a message was among those kept."""

    NO = "no"
    ANSWERED = "answered"
    FAILED = "refused or failed"


class _UndoneError(Exception):
    """A message failed half-way in a transaction without savepoints."""


class Intake:
    """Handles batches of messages; the MessageHandler of the listener."""

    def __init__(
        self,
        units_of_work: UnitsOfWork,
        apply: Apply,
        mappings: Callable[[], MappingSet],
        *,
        clock: Clock,
        default_charset: Charset = LATIN_1,
        limits: Limits | None = None,
        control_ids: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """Keep the ports; `mappings` gives the mapping in force, so that a reload takes effect at once."""
        self._units_of_work = units_of_work
        self._apply = apply
        self._mappings = mappings
        self._clock = clock
        self._default_charset = default_charset
        self._limits = limits or Limits()
        self._control_ids = control_ids

    def handle_batch(self, messages: Sequence[InboundMessage]) -> list[Answer]:
        """Handle messages in order and answer each; whatever is acknowledged is committed."""
        try:
            try:
                return self._transact(messages, guarded=False)
            except _UndoneError:
                return self._transact(messages, guarded=True)
        except OutOfResources as error:
            # Not the fault of any message: say nothing, hang up, and every sender sends again.
            peers = sorted({message.peer for message in messages})[:_PEERS_NAMED]
            log.error("messages not kept", count=len(messages), peers=peers, error=type(error).__name__)
            return [HANG_UP] * len(messages)
        except Exception as error:
            if len(messages) > 1:
                # One of them broke the transaction of all: each gets its own, so that it harms only itself.
                return [self.handle_batch([message])[0] for message in messages]
            log.error("transaction failed", peer=messages[0].peer, error=type(error).__name__)
            return [self._count_failure(messages[0])]

    def _transact(self, messages: Sequence[InboundMessage], *, guarded: bool) -> list[Answer]:
        """Handle messages in one transaction.

        Unguarded, none of them may fail half-way, or all is undone and done again; guarded, each has a
        savepoint. Conflicts are rare and two savepoint statements per message are not free.
        """
        with self._units_of_work() as uow:
            answers = [self._handle(uow, message, guarded=guarded) for message in messages]
            failpoint("hl7.before_commit")
            uow.commit()
        failpoint("hl7.after_commit")
        return answers

    def refuse(self, head: bytes, reason: str) -> bytes | None:
        """Write a rejection for a block that was lost, if enough of it came to know whom to answer."""
        try:
            message = tokenize(
                head[:_HEADER_BYTES].decode("latin-1").partition("\r")[0], limits=_HEADER_LIMITS
            )
            header = Header.of(message)
        except BrokerError:
            return None
        if not header.message_control_id:
            return None
        problem = Problem("207", reason)
        return self._write(header, "AR", LATIN_1, (problem,))

    # --- one message ---

    def _handle(self, uow: UnitOfWork, inbound: InboundMessage, *, guarded: bool) -> Answer:
        try:
            read = self._read(inbound.payload)
        except NoHeaderError:
            # Nobody to answer: the block is kept for a person, the connection goes on.
            self._keep_junk(uow, inbound)
            return JUNK
        stored, known = self._recognise(uow, read, inbound)
        if known is _Known.ANSWERED:
            return self._repeat(uow, stored, read)
        result = self._evaluate(uow, stored, read, guarded=guarded)
        codes = () if result.silent else acknowledgements(read.header, result.verdict)
        replies = tuple(self._write(read.header, code, read.charset, result.problems) for code in codes)
        self._keep(uow, stored, known, result, answer=replies[-1] if replies else None)
        self._tell(uow, stored, result)
        failed = result.outcome is MessageOutcome.FAILED
        return HANG_UP if failed else Answer(replies)

    def _read(self, payload: bytes) -> _Read:
        first, declared = peek(payload)
        mapping = self._mappings().for_sender(first.value(3, 1), first.value(4, 1))
        reception = mapping.file.reception
        override = charset_named(reception.character_set) if reception.character_set else None
        default = charset_named(reception.default_character_set or "") or self._default_charset
        problems: tuple[Problem, ...] = ()
        try:
            decoded = decode(payload, declared, default=default, override=override)
        except CharsetNotTransportableError as error:
            decoded = DecodedText(payload.decode("latin-1"), LATIN_1)
            problems = (Problem(error.hl7_condition, str(error), Path("MSH", 18)),)
        text = decoded.text.replace("\x00", "") if "\x00" in decoded.text else decoded.text
        try:
            message = tokenize(text, limits=self._limits, codec=decoded.charset.codec)
            header = Header.of(message)
            sender = message.header.value(3, 1), message.header.value(4, 1)
        except MessageTooComplexError as error:
            message = Message((first,), first.separators)
            sender = first.value(3, 1), first.value(4, 1)
            header = Header.of(message)
            problems = (Problem(error.hl7_condition, str(error)),)
        if decoded.suspect:
            warning = Problem(
                "102",
                "the text is not in the character set it declares",
                Path("MSH", 18),
                severity=Severity.WARNING,
            )
            problems = (*problems, warning)
        return _Read(message, header, sender, decoded.charset, mapping, problems)

    def _recognise(
        self, uow: UnitOfWork, read: _Read, inbound: InboundMessage
    ) -> tuple[StoredMessage, _Known]:
        """Find the message among those kept, or give it an id to be kept under.

        The key is MSH-3, MSH-4, MSH-10 and the content without MSH-7: counters restart, times differ.
        """
        now = self._clock.now()
        new = self._as_stored(read, inbound)
        key = (new.sending_application, new.sending_facility, new.message_control_id)
        known = uow.messages.find(*key) if new.message_control_id else []
        for stored in known:
            if stored.content_sha256 != new.content_sha256:
                continue
            if stored.outcome in _ANSWERED:
                if now - stored.received_at <= REPEAT_WINDOW:
                    return stored, _Known.ANSWERED
            else:
                # Refused or failed before: the mapping, or we, may have been mended since.
                return replace(stored, attempts=stored.attempts + 1), _Known.FAILED
        new = replace(new, id=uow.messages.reserve())
        if known:
            self._record(uow, EventName.CONTROL_ID_REUSED, new)
        return new, _Known.NO

    def _keep(
        self, uow: UnitOfWork, stored: StoredMessage, known: _Known, result: _Result, *, answer: bytes | None
    ) -> None:
        """Store the message with what became of it."""
        stored = replace(
            stored,
            outcome=result.outcome,
            acknowledgement_code=f"A{result.verdict.value}",
            answer=answer,
            problems=tuple(_as_record(problem) for problem in result.problems),
            order=result.order,
        )
        if known is _Known.NO:
            uow.messages.add(stored)
        else:
            uow.messages.save(stored)

    def _repeat(self, uow: UnitOfWork, stored: StoredMessage, read: _Read) -> Answer:
        self._record(uow, EventName.MESSAGE_REPEATED, stored)
        code = stored.acknowledgement_code or "AA"
        codes = acknowledgements(read.header, Verdict(code[-1]))
        return Answer(tuple(self._write(read.header, each, read.charset, ()) for each in codes))

    def _evaluate(self, uow: UnitOfWork, stored: StoredMessage, read: _Read, *, guarded: bool) -> _Result:
        reception = read.mapping.file.reception
        mapped = Mapped()
        try:
            if verdict_of(read.problems) is Verdict.ACCEPTED:
                mapped = read.mapping.read(read.message, read.header, message_row=stored.id)
            problems = (*read.problems, *mapped.problems)
            if (verdict := verdict_of(problems)) is not Verdict.ACCEPTED:
                if reception.refused == "park":
                    return _Result(MessageOutcome.PARKED, Verdict.ACCEPTED, problems)
                return _Result(MessageOutcome.REFUSED, verdict, problems)
            if mapped.ignored:
                return _Result(MessageOutcome.IGNORED, Verdict.ACCEPTED, problems, silent=mapped.is_response)
            applied = self._apply_all(uow, mapped.requests, guarded=guarded)
        except (OutOfResources, _UndoneError):
            raise
        except (Conflict, IllegalTransition, NotFound) as error:
            problems = (*read.problems, *mapped.problems, _problem_of(error, mapped.requests))
            if reception.conflict == "park":
                return _Result(MessageOutcome.PARKED, Verdict.ACCEPTED, problems)
            return _Result(MessageOutcome.REFUSED, Verdict.ERROR, problems)
        except (InvalidValue, MessageTooComplexError) as error:
            problems = (*read.problems, *mapped.problems, _problem_of(error, mapped.requests))
            if reception.refused == "park":
                return _Result(MessageOutcome.PARKED, Verdict.ACCEPTED, problems)
            return _Result(MessageOutcome.REFUSED, Verdict.ERROR, problems)
        except Exception as error:
            return self._failure(stored, error)
        warnings = tuple(Problem("0", text, severity=Severity.WARNING) for text in applied.warnings)
        return _Result(MessageOutcome.ACCEPTED, Verdict.ACCEPTED, (*problems, *warnings), applied.order)

    def _apply_all(self, uow: UnitOfWork, requests: Sequence[Request], *, guarded: bool) -> Applied:
        """Apply the requests of one message together or not at all."""
        if guarded:
            with uow.savepoint():
                return self._apply_each(uow, requests)
        try:
            return self._apply_each(uow, requests)
        except OutOfResources:
            raise
        except Exception as error:
            raise _UndoneError from error

    def _apply_each(self, uow: UnitOfWork, requests: Sequence[Request]) -> Applied:
        order: int | None = None
        warnings: list[str] = []
        for request in requests:
            applied = self._apply(request, uow)
            order = order if applied.order is None else applied.order
            warnings += applied.warnings
        return Applied(order, tuple(warnings))

    def _failure(self, stored: StoredMessage, error: Exception) -> _Result:
        # The text of an unforeseen error may hold patient data: only its kind is told.
        kind = type(error).__name__
        problem = Problem("207", f"the broker failed on this message ({kind})")
        ids = {"message": stored.id, "message_control_id": stored.message_control_id, "peer": stored.peer}
        log.error("message failed", **ids, attempts=stored.attempts, error=kind)
        log.debug("message failed", **ids, exc_info=error)
        if stored.attempts >= MAX_INTERNAL_FAILURES:
            return _Result(MessageOutcome.PARKED, Verdict.ACCEPTED, (problem,))
        return _Result(MessageOutcome.FAILED, Verdict.REJECTED, (problem,))

    def _count_failure(self, inbound: InboundMessage) -> Answer:
        """Keep a message whose transaction failed as a whole, and park it when that happens again and again."""
        try:
            with self._units_of_work() as uow:
                read = self._read(inbound.payload)
                stored, known = self._recognise(uow, read, inbound)
                if known is _Known.ANSWERED:
                    answer = self._repeat(uow, stored, read)
                else:
                    result = self._failure(stored, RuntimeError("transaction"))
                    self._keep(uow, stored, known, result, answer=None)
                    self._tell(uow, stored, result)
                    parked = result.outcome is MessageOutcome.PARKED
                    codes = acknowledgements(read.header, result.verdict) if parked else ()
                    answer = Answer(
                        tuple(self._write(read.header, code, read.charset, ()) for code in codes),
                        close=not parked,
                    )
                uow.commit()
        except Exception as error:
            log.error("message not kept", peer=inbound.peer, error=type(error).__name__)
            return HANG_UP
        return answer

    # --- keeping and answering ---

    def _as_stored(self, read: _Read, inbound: InboundMessage) -> StoredMessage:
        header = read.header
        return StoredMessage(
            id=0,
            received_at=inbound.received_at,
            peer=inbound.peer[:64],
            sending_application=read.sender[0][:128],
            sending_facility=read.sender[1][:128],
            message_control_id=header.message_control_id[:_CONTROL_ID_CHARACTERS],
            message_type="^".join(part for part in (header.message_type, header.trigger_event) if part)[:32],
            content_sha256=content_digest(inbound.payload),
            raw=inbound.payload,
            outcome=MessageOutcome.FAILED,
            acknowledgement_code=None,
            answer=None,
        )

    def _keep_junk(self, uow: UnitOfWork, inbound: InboundMessage) -> None:
        payload = inbound.payload[:_KEPT_OF_JUNK_BYTES]
        stored = uow.messages.add(
            StoredMessage(
                id=0,
                received_at=inbound.received_at,
                peer=inbound.peer[:64],
                sending_application="",
                sending_facility="",
                message_control_id="",
                message_type="",
                content_sha256=hashlib.sha256(inbound.payload).digest(),
                raw=payload,
                outcome=MessageOutcome.REFUSED,
                acknowledgement_code=None,
                answer=None,
                problems=(_as_record(Problem("100", "the block does not begin with MSH")),),
            )
        )
        self._record(uow, EventName.MESSAGE_REFUSED, stored)

    def _tell(self, uow: UnitOfWork, stored: StoredMessage, result: _Result) -> None:
        name = {
            MessageOutcome.REFUSED: EventName.MESSAGE_REFUSED,
            MessageOutcome.FAILED: EventName.MESSAGE_REFUSED,
            MessageOutcome.PARKED: EventName.MESSAGE_PARKED,
        }.get(result.outcome)
        conditions = [problem.condition for problem in result.problems if problem.severity is Severity.ERROR]
        if name is not None:
            self._record(uow, name, stored, conditions)
        tell = log.debug if name is None else log.warning
        tell(
            "message handled",
            message=stored.id,
            message_control_id=_printable(stored.message_control_id),
            message_type=stored.message_type if _TYPE.fullmatch(stored.message_type) else "unknown",
            outcome=result.outcome.value,
            conditions=conditions,
        )

    def _record(
        self, uow: UnitOfWork, name: EventName, stored: StoredMessage, conditions: list[str] | None = None
    ) -> None:
        uow.record(
            Event(
                name,
                Subject.MESSAGE,
                stored.id,
                actor=stored.sending_application or "broker",
                details={
                    "message_control_id": stored.message_control_id,
                    "message_type": stored.message_type,
                    "attempts": stored.attempts,
                    "conditions": conditions or [],
                },
            )
        )

    def _write(self, header: Header, code: str, charset: Charset, problems: tuple[Problem, ...]) -> bytes:
        errors = [problem for problem in problems if problem.severity is Severity.ERROR]
        return build_ack(
            header,
            code,
            control_id=self._control_ids(),
            now=self._clock.local_now(),
            charset=charset,
            problems=errors,
        )


def content_digest(payload: bytes) -> bytes:
    """Hash a message without its time (MSH-7), which differs when the same message is sent again."""
    end = min((place for mark in (b"\r", b"\n") if (place := payload.find(mark)) >= 0), default=len(payload))
    separator = payload[3:4]
    fields = payload[:end].split(separator, 7) if separator else [payload[:end]]
    if len(fields) > 6:
        fields[6] = b""
    return hashlib.sha256(separator.join(fields) + payload[end:]).digest()


def peek(payload: bytes) -> tuple[Segment, str]:
    """Read MSH before the character set is known: what it needs of itself is ASCII."""
    text = payload[:_HEADER_BYTES].decode("latin-1").removeprefix("\xef\xbb\xbf").lstrip("\r\n \x00")
    # Its length bounds it: whatever stands in these bytes can be read.
    header = tokenize(text.partition("\r")[0].partition("\n")[0], limits=_HEADER_LIMITS).header
    return header, header.field(18)


def _problem_of(error: BrokerError, requests: Sequence[Request]) -> Problem:
    """Say where in the message a use case's complaint belongs: it names the attribute, the mapping its source."""
    place = _place_of(error.field or "", requests)
    path, occurrence = _parse_place(place)
    return Problem(error.hl7_condition, str(error), path, occurrence)


def _place_of(keyword: str, requests: Sequence[Request]) -> str:
    return next(
        (place for request in requests for sources in _sources(request) if (place := sources.get(keyword))),
        "",
    )


def _sources(request: object) -> list[Mapping[str, str]]:
    """List the `sources` of a request and of everything in it."""
    found: list[Mapping[str, str]] = []
    own = getattr(request, "sources", None)
    if own is not None:
        found.append(own)
    for name in ("patient", "survivor"):
        if (inner := getattr(request, name, None)) is not None:
            found += _sources(inner)
    for name in ("orders", "procedures", "steps"):
        for inner in getattr(request, name, ()):
            found += _sources(inner)
    return found


def _parse_place(place: str) -> tuple[Path | None, int]:
    """Read `OBR[2]-18.1` back."""
    segment, dash, rest = place.partition("-")
    name, _, occurrence = segment.partition("[")
    try:
        return Path.parse(f"{name}{dash}{rest}"), int(occurrence.removesuffix("]") or 1)
    except ValueError:
        return None, 1


def _as_record(problem: Problem) -> dict[str, str]:
    return {
        "condition": problem.condition,
        "severity": problem.severity.name.lower(),
        "place": problem.place,
        "text": problem.text,
    }


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:64]
