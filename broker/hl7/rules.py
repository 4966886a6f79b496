"""Compiles the field rules of a mapping file, and reads groups of segments by them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import lru_cache
from typing import Final, Literal, get_args

from pydicom.datadict import dictionary_VR, tag_for_keyword

from broker.domain.orders import AttributeValue
from broker.errors import InvalidValue
from broker.hl7.ack import Problem, Severity
from broker.hl7.converters import (
    CONVERTERS,
    KEEPS_LINES,
    LOOK_FURTHER,
    MAX_CHARACTERS,
    TAKE_AS_SENT,
    Conversion,
    Converter,
    Remembered,
    Target,
)
from broker.hl7.groups import Group
from broker.hl7.instants import parse_stamp
from broker.hl7.mapping_file import FieldRule, MappingFile
from broker.hl7.tokenizer import MAX_FIELDS, Message, MessageTooComplexError, Path, Segment

Section = Literal["patient", "order", "procedure", "step"]
SECTIONS: Final[tuple[Section, ...]] = get_args(Section)

DATE_TIME: Final = "date_time"
"""The one converter that writes two attributes: `<key>Date` and `<key>Time`."""

# What HL7 gives with its authority is no DICOM attribute of its own.
SPECIAL: Final = {
    "PlacerOrderNumber": Target("PlacerOrderNumberImagingServiceRequest", 64, keeps_lines=False),
    "FillerOrderNumber": Target("FillerOrderNumberImagingServiceRequest", 64, keeps_lines=False),
    "IssuerOfAccessionNumber": Target("LocalNamespaceEntityID", 64, keeps_lines=False),
}
_MAX_DIALECTS: Final = 16
MAX_REMEMBERED: Final = 4096
_MAX_REMEMBERED_CHARACTERS: Final = 200
_READ_ELSEWHERE: Final = frozenset({"PlacerOrderNumber", "FillerOrderNumber"})


@dataclass(slots=True)
class Read:
    """Holds what a group of segments says: new values, what it clears (None), and where each came from."""

    changes: dict[str, AttributeValue | None] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """One place a rule looks at."""

    segment: str
    field: int
    component: int
    written: str
    number: int
    """Which place this is, of all places of all rules of a mapping."""
    as_sent: bool
    """Plain text that stands here is the value."""
    by_itself: bool
    """Nothing but what stands in this field decides the value."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """One compiled rule."""

    keyword: str
    paths: tuple[Path, ...]
    places: tuple[_Place, ...]
    """The same places, made for looking."""
    convert: Converter | None
    target: Target
    observations: frozenset[str]
    default: str | None
    required: bool
    always: bool
    """There is more to it than its paths: observations, a default, a duty."""


class CompiledRules:
    """Reads the attributes of each section of one mapping."""

    def __init__(self, mapping: MappingFile) -> None:
        self._sections: dict[str, tuple[_Rule, ...]] = {}
        self._remembered: dict[object, Remembered] = {}
        numbers = itertools.count()
        self._places: dict[tuple[str, str], tuple[Path, ...]] = {}
        for section in SECTIONS:
            rules = [
                _compile(keyword, rule, numbers)
                for keyword, rule in rules_of(mapping, section).items()
                if rule is not None
            ]
            self._sections[section] = tuple(rule for rule in rules if rule.keyword not in _READ_ELSEWHERE)
            for rule in rules:
                self._places[section, rule.keyword] = rule.paths

    def places(self, section: Section, keyword: str) -> tuple[Path, ...]:
        """List the places an attribute is read from."""
        return self._places.get((section, keyword), ())

    def remembered(self, message: Message, sender_zone: tzinfo | None) -> Remembered:
        """Give the values already read in the way this message is written."""
        key = (message.separators, message.header.codec, message.header.limits, sender_zone)
        found = self._remembered.get(key)
        if found is None:
            if len(self._remembered) >= _MAX_DIALECTS:
                self._remembered.clear()
            found = self._remembered[key] = {}
        elif len(found) > MAX_REMEMBERED:
            found.clear()
        return found

    def read(
        self,
        section: Section,
        group: Group,
        conversion: Conversion,
        problems: list[Problem],
        severity: Severity,
    ) -> Read:
        """Read one section; what cannot be converted is a problem of `severity` and not taken."""
        read = Read()
        changes, sources, remembered = read.changes, read.sources, conversion.remembered
        segments = group.segments
        fields_of = {name: found[0].fields for name, found in segments.items()}
        for rule in self._sections[section]:
            # Most places of most messages are empty: that is found out first, and cheaply.
            for place in rule.places:
                fields = fields_of.get(place.segment)
                if fields is None or place.field >= len(fields) or not (sent := fields[place.field]):
                    continue
                segment = segments[place.segment][0]
                value: AttributeValue | None = None
                if segment.occurrence == 1 and place.by_itself:
                    value = _as_sent(rule, place, segment, sent) if place.as_sent else None
                    value = value or remembered.get((place.number, sent))
                if value:
                    changes[rule.keyword] = value
                    sources[rule.keyword] = place.written
                    break
                _apply(rule, group, conversion, read, problems, severity)
                value = changes.get(rule.keyword)
                if (
                    value
                    and place.by_itself
                    and sources[rule.keyword] == place.written
                    and len(sent) <= _MAX_REMEMBERED_CHARACTERS
                ):
                    remembered[place.number, sent] = value
                break
            else:
                if rule.always:
                    _apply(rule, group, conversion, read, problems, severity)
        return read

    def read_one(
        self, section: Section, keyword: str, group: Group, conversion: Conversion
    ) -> AttributeValue | None:
        """Read one attribute, leaving its problems to the reading of the whole section."""
        read = Read()
        for rule in self._sections[section]:
            if rule.keyword == keyword:
                _apply(rule, group, conversion, read, [], Severity.WARNING)
        return read.changes.get(keyword)


def _as_sent(rule: _Rule, place: _Place, segment: Segment, sent: str) -> str | None:
    """Take plain text as it stands; nothing where there is more to reading it than that."""
    separators = segment.separators
    if not segment.is_plain or (separators.repetition and separators.repetition in sent):
        return None
    text = sent
    if place.component:
        separator, number = separators.component, place.component
        if separator and separator in sent:
            parts = sent.split(separator, number)
            text = parts[number - 1] if number <= len(parts) else ""
        elif number > 1:
            return None
    text = text.strip(" ")
    limit = rule.target.max_characters
    return text if limit is None or len(text) <= limit else None


def _apply(
    rule: _Rule,
    group: Group,
    conversion: Conversion,
    read: Read,
    problems: list[Problem],
    severity: Severity,
) -> None:
    cleared: str | None = None
    for segment, path in _candidates(rule, group):
        try:
            sent = segment.field(path.field)
            if not sent:
                continue
            if segment.nulls(path, sent):
                cleared = cleared or _place(path, segment)
                continue
            if rule.convert is None:
                if _take_date_time(rule, segment, path, conversion, read):
                    return
                continue
            value = rule.convert(segment, path, group, rule.target, conversion)
        except InvalidValue as error:
            # Identifiers may be wrong everywhere; elsewhere one bad value need not stop an order.
            problems.append(
                Problem(error.hl7_condition, str(error), path, segment.occurrence, _weight(rule, severity))
            )
            return
        except MessageTooComplexError as error:
            problems.append(Problem(error.hl7_condition, str(error), path, segment.occurrence))
            return
        if value:
            read.changes[rule.keyword] = value
            read.sources[rule.keyword] = _place(path, segment)
            return
    if cleared is not None:
        keywords = (
            (rule.keyword,) if rule.convert is not None else (f"{rule.keyword}Date", f"{rule.keyword}Time")
        )
        for keyword in keywords:
            read.changes[keyword] = None
            read.sources[keyword] = cleared
    elif rule.default is not None:
        read.changes[rule.keyword] = rule.default
        read.sources[rule.keyword] = "default of the mapping"
    elif rule.required and rule.paths:
        problems.append(Problem("101", f"{rule.keyword} is needed", rule.paths[0]))


# A wrong value of these refuses the order, because it would be booked to the wrong day or device; any other
# wrong value is dropped and told as a warning.
_DECISIVE: Final = frozenset(
    {
        "AccessionNumber",
        "StudyInstanceUID",
        "RequestedProcedureID",
        "ScheduledProcedureStepID",
        "ScheduledProcedureStepStart",
        "PlacerOrderNumber",
        "FillerOrderNumber",
    }
)


def _weight(rule: _Rule, severity: Severity) -> Severity:
    return severity if rule.keyword in _DECISIVE or rule.required else Severity.WARNING


def _candidates(rule: _Rule, group: Group) -> Iterable[tuple[Segment, Path]]:
    for path in rule.paths:
        found = group.segments.get(path.segment)
        if found is not None:
            yield found[0], path
    if rule.observations:
        for segment in group.all("OBX"):
            if {segment.value(3, 1).upper(), segment.value(3, 2).upper()} & rule.observations:
                yield segment, _OBSERVED


_OBSERVED: Final = Path("OBX", 5)


def _take_date_time(rule: _Rule, segment: Segment, path: Path, conversion: Conversion, read: Read) -> bool:
    text = segment.at(path).partition("^")[0]
    if not text:
        return False
    stamp = parse_stamp(text, site=conversion.site_zone, sender=conversion.sender_zone)
    if not stamp.date:
        raise InvalidValue("names no day")
    place = _place(path, segment)
    read.changes[f"{rule.keyword}Date"] = stamp.date
    read.sources[f"{rule.keyword}Date"] = place
    if stamp.time:
        read.changes[f"{rule.keyword}Time"] = stamp.time
        read.sources[f"{rule.keyword}Time"] = place
    return True


_written = lru_cache(maxsize=1024)(str)


def _place(path: Path, segment: Segment) -> str:
    if segment.occurrence == 1:
        return _written(path)
    return f"{path.segment}[{segment.occurrence}]-{str(path).partition('-')[2]}"


def rules_of(mapping: MappingFile, section: Section) -> dict[str, FieldRule | None]:
    """Give the rules of one section."""
    sections = {
        "patient": mapping.patient,
        "order": mapping.order,
        "procedure": mapping.procedure,
        "step": mapping.step,
    }
    return sections[section]


def _compile(keyword: str, rule: FieldRule, numbers: Iterator[int]) -> _Rule:
    paths = tuple(Path.parse(text) for text in rule.from_)
    return _Rule(
        keyword,
        paths,
        tuple(
            _Place(
                path.segment,
                path.field,
                path.component,
                str(path),
                next(numbers),
                as_sent=rule.as_ in TAKE_AS_SENT
                and path.repetition == 1
                and not path.subcomponent
                and path.field < MAX_FIELDS
                and path.segment != "MSH",
                by_itself=rule.as_ not in LOOK_FURTHER and rule.as_ != DATE_TIME,
            )
            for path in paths
        ),
        None if rule.as_ == DATE_TIME else CONVERTERS[rule.as_],
        _target(keyword),
        frozenset(text.upper() for text in rule.observation),
        rule.default,
        rule.required,
        always=bool(rule.observation) or rule.default is not None or rule.required,
    )


def _target(keyword: str) -> Target:
    if keyword in SPECIAL:
        return SPECIAL[keyword]
    tag = tag_for_keyword(keyword)
    vr = dictionary_VR(tag) if tag is not None else "LO"
    return Target(keyword, MAX_CHARACTERS.get(vr), keeps_lines=vr in KEEPS_LINES)
