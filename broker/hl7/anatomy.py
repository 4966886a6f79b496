"""A message taken apart for people: segments and fields with their names, problems at their places, and what it says.

What is shown is bounded however large the message; nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from hl7apy import load_library
from hl7apy.exceptions import HL7apyException

from broker.domain.attributes import shown
from broker.domain.orders import (
    AttributeValue,
    Changes,
    EntityIdentifier,
    MergePatients,
    OrderDetails,
    PatientDetails,
    PlaceOrders,
)
from broker.errors import BrokerError
from broker.hl7.ack import Header
from broker.hl7.charsets import Charset, charset_named, decode
from broker.hl7.intake import peek
from broker.hl7.mapping import MappingSet, Request
from broker.hl7.tokenizer import Message, Segment, tokenize
from broker.workflow.message_reports import FieldPart, ReadAgain, Said, SegmentPart

MAX_SEGMENTS: Final = 200
MAX_FIELDS: Final = 100
MAX_TEXT_CHARACTERS: Final = 400
_DEFAULT_VERSION: Final = "2.5.1"
_SHORT_WORDS: Final = frozenset({"ID", "UID", "AE", "SSN", "DNS"})


def dissect(
    payload: bytes, problems: Sequence[Mapping[str, str]] = (), *, default: Charset
) -> list[SegmentPart]:
    """Take a message apart; what is no message has no parts."""
    try:
        message = _opened(payload, default=default)
    except BrokerError:
        return []
    version = Header.of(message).version.split(message.separators.component or "^", 1)[0]
    open_problems = [(problem.get("place", ""), problem.get("text", "")) for problem in problems]
    return [_segment(segment, version, open_problems) for segment in message.segments[:MAX_SEGMENTS]]


def read_again(payload: bytes, mappings: MappingSet, *, default: Charset) -> ReadAgain:
    """Read what a message asks for with the mapping in force."""
    try:
        first, declared = peek(payload)
        mapping = mappings.for_sender(first.value(3, 1), first.value(4, 1))
        reception = mapping.file.reception
        override = charset_named(reception.character_set) if reception.character_set else None
        default = charset_named(reception.default_character_set or "") or default
        decoded = decode(payload, declared, default=default, override=override)
        message = tokenize(decoded.text.replace("\x00", ""), codec=decoded.charset.codec)
        mapped = mapping.read(message, Header.of(message))
    except BrokerError as error:
        return ReadAgain(problems=({"place": error.field or "", "text": str(error)},))
    values = tuple(said for request in mapped.requests for said in _of_request(request))
    told = tuple({"place": problem.place, "text": problem.text} for problem in mapped.problems)
    return ReadAgain(values, told, mapped.ignored)


def _opened(payload: bytes, *, default: Charset) -> Message:
    _, declared = peek(payload)
    decoded = decode(payload, declared, default=default)
    return tokenize(decoded.text.replace("\x00", ""), codec=decoded.charset.codec)


# ---- fields --------------------------------------------------------------------------------------------


def _segment(segment: Segment, version: str, problems: Sequence[tuple[str, str]]) -> SegmentPart:
    place = segment.name if segment.occurrence == 1 else f"{segment.name}[{segment.occurrence}]"
    names = _names(version, segment.name)
    found: dict[int, list[str]] = {}
    own: list[str] = []
    for where, text in problems:
        of, _, rest = where.partition("-")
        if of != place:
            continue
        digits = rest.partition(".")[0].partition("[")[0]
        if digits.isdecimal():
            found.setdefault(int(digits), []).append(f"{where}: {text}" if rest != digits else text)
        else:
            own.append(text)
    fields = segment.fields
    numbers = {number for number in range(1, min(len(fields), MAX_FIELDS + 1)) if fields[number]}
    return SegmentPart(
        place,
        tuple(
            FieldPart(
                f"{place}-{number}",
                names[number - 1] if number <= len(names) else "",
                fields[number][:MAX_TEXT_CHARACTERS] if number < len(fields) else "",
                len(fields[number]) if number < len(fields) else 0,
                tuple(found.get(number, ())),
            )
            for number in sorted(numbers | {number for number in found if 0 < number <= 1000})
        ),
        tuple(own),
    )


@lru_cache(maxsize=512)
def _names(version: str, segment: str) -> tuple[str, ...]:
    """Answer what the standard calls the fields of a segment."""
    try:
        library: Any = load_library(version)
    except HL7apyException:
        library = load_library(_DEFAULT_VERSION)
    known = library.SEGMENTS.get(segment)
    if known is None:
        return ()
    return tuple(" ".join(map(_word, str(field[1][3]).split("_"))) for field in known[1])


def _word(word: str) -> str:
    return word if word in _SHORT_WORDS else word.capitalize()


# ---- what it says --------------------------------------------------------------------------------------


def _of_request(request: Request) -> Iterator[Said]:
    if isinstance(request, PlaceOrders):
        yield from _of_patient(request.patient)
        for number, order in enumerate(request.orders, 1):
            yield from _of_order(order, "order" if len(request.orders) == 1 else f"order {number}")
    elif isinstance(request, MergePatients):
        yield from _of_patient(request.survivor)
        yield Said("merged away", "PatientID", request.absorbed.value, "MRG-1")
    else:
        yield from _of_patient(request.patient)


def _of_patient(patient: PatientDetails) -> Iterator[Said]:
    identifiers = tuple(identifier.value for identifier in patient.identifiers)
    yield from _changes("patient", {"PatientID": identifiers, **patient.changes}, patient.sources)


def _of_order(order: OrderDetails, level: str) -> Iterator[Said]:
    yield Said(
        level, "what is asked", order.action.name.lower().replace("_", " "), f"ORC-1 {order.order_control}"
    )
    own: dict[str, AttributeValue | None] = {
        "AccessionNumber": order.accession_number or "",
        "PlacerOrderNumber": _number(order.placer_order_number),
        "FillerOrderNumber": _number(order.filler_order_number),
    }
    yield from _changes(level, {**own, **order.changes}, order.sources)
    for procedure in order.procedures:
        of_procedure = {
            "StudyInstanceUID": procedure.study_instance_uid or "",
            "RequestedProcedureID": procedure.requested_procedure_id or "",
            **procedure.changes,
        }
        yield from _changes("procedure", of_procedure, procedure.sources)
        for step in procedure.steps:
            of_step = {"ScheduledProcedureStepID": step.scheduled_procedure_step_id or "", **step.changes}
            yield from _changes("step", of_step, step.sources)


def _number(identifier: EntityIdentifier | None) -> str:
    return identifier.value if identifier else ""


def _changes(level: str, changes: Changes, sources: Mapping[str, str]) -> Iterator[Said]:
    for keyword, value in changes.items():
        if value is None:
            yield Said(level, keyword, "", sources.get(keyword, ""))
        elif value:
            yield Said(level, keyword, shown(value), sources.get(keyword, ""))
