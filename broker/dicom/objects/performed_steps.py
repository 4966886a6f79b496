"""Reads and merges performed procedure step data sets (PS3.4 table F.7.2-1).

What is stored is the merged state in Explicit VR Little Endian with its text in UTF-8: a modification list in
another character set is converted, and never changes what was said before (PS3.4 F.7.2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from broker.dicom.objects.elements import (
    CHARACTER_VRS,
    DEFAULT_LIMITS,
    Element,
    Elements,
    Limits,
    Syntax,
    character_set_of,
    codecs_of,
    decode,
    read_elements,
    text_of,
    write_elements,
)
from broker.domain.identity import PersonEvidence
from broker.domain.orders import PatientIdentifier
from broker.domain.steps import PerformedStatus
from broker.domain.values import UID, parse_date, parse_time, time_text
from broker.errors import InvalidValue
from broker.workflow.procedure_steps import PerformedItem, PerformedState

_CHARACTER_SET = 0x00080005
_SCHEDULED_STEP_ATTRIBUTES = 0x00400270
_STATUS = 0x00400252
_END_DATE, _END_TIME = 0x00400250, 0x00400251
_START_DATE, _START_TIME = 0x00400244, 0x00400245
_SERIES = 0x00400340
_STUDY_UID = 0x0020000D
_SERIES_UID = 0x0020000E
_DISCONTINUATION_REASON = 0x00400281
_IMAGES, _OTHER_OBJECTS = 0x00081140, 0x00400220
_OBJECT_UID = 0x00081155
_UTF_8 = ("utf_8",)
_MAX_SERIES_LISTED = 10_000

CREATION_TYPE_1 = (
    0x00080060,
    0x00400241,
    _START_DATE,
    _START_TIME,
    _STATUS,
    0x00400253,
    _SCHEDULED_STEP_ATTRIBUTES,
)
"""Modality, station, start, status, id and the scheduled steps: without them nothing is created."""
CREATION_TYPE_2 = (
    0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x00200010, 0x00400242, 0x00400243, 0x00400254, 0x00400255,
    0x00081032, 0x00400260, _END_DATE, _END_TIME, _SERIES, 0x00081120,
)  # fmt: skip
NOT_IN_A_SET = frozenset(
    {
        _SCHEDULED_STEP_ATTRIBUTES, 0x00100010, 0x00100020, 0x00100021, 0x00100024, 0x00100030, 0x00100040,
        0x00101002, 0x00081120, 0x00380010, 0x00380014, 0x00380060, 0x00400253, 0x00400241, 0x00400242, 0x00400243,
        _START_DATE, _START_TIME, 0x00080060, 0x00200010,
    }
)  # fmt: skip
"""What PS3.4 table F.7.2-1 does not allow in N-SET: a correction of these is a new performed step."""
_FINAL_TYPE_1 = (_END_DATE, _END_TIME, _SERIES)


class Refusal(Enum):
    """Why a modality may not say that; the value is the DIMSE status (PS3.7 annex C)."""

    NO_SUCH_ATTRIBUTE = 0x0105
    INVALID_VALUE = 0x0106
    MISSING_ATTRIBUTE = 0x0120
    MISSING_VALUE = 0x0121


class PerformedStepRefused(InvalidValue):
    """The data set is not one of a performed procedure step."""

    def __init__(self, refusal: Refusal, elements: tuple[int, ...], detail: str) -> None:
        """Say why, and which attributes are at fault."""
        super().__init__(detail)
        self.refusal = refusal
        self.elements = elements


@dataclass(frozen=True, slots=True)
class Reading:
    """How strictly a device is held to the standard."""

    is_strict: bool = False
    """Refuse what can be read although the standard does not allow it."""
    character_set: tuple[str, ...] = ()
    """What its bytes mean when it does not say."""
    limits: Limits = DEFAULT_LIMITS


LENIENT = Reading()


def read_creation(data: bytes, syntax: Syntax, reading: Reading = LENIENT) -> PerformedState:
    """Read the attribute list of an N-CREATE. Raises PerformedStepRefused and MalformedDataSet."""
    elements = _in_utf8(read_elements(data, syntax, reading.limits), reading)
    _require(elements, CREATION_TYPE_1)
    sequence = elements[_SCHEDULED_STEP_ATTRIBUTES].items
    if sequence is None:
        raise PerformedStepRefused(
            Refusal.INVALID_VALUE, (_SCHEDULED_STEP_ATTRIBUTES,), "(0040,0270) is no sequence"
        )
    for item in sequence:
        _require(item, (_STUDY_UID,))
    if _status(elements) is not PerformedStatus.IN_PROGRESS:
        # PS3.4 F.7.2.1.3
        raise PerformedStepRefused(
            Refusal.INVALID_VALUE, (_STATUS,), "a performed step is created IN PROGRESS"
        )
    notes: list[str] = []
    absent = tuple(tag for tag in CREATION_TYPE_2 if tag not in elements)
    if absent:
        if reading.is_strict:
            raise PerformedStepRefused(Refusal.MISSING_ATTRIBUTE, absent, "required attributes are absent")
        notes.append("absent: " + _named(absent))
    invalid = _invalid(elements)
    if invalid:
        if reading.is_strict:
            raise PerformedStepRefused(Refusal.INVALID_VALUE, invalid, "a date, time or UID is not valid")
        notes.append("not valid: " + _named(invalid))
    return _state(elements, tuple(notes))


@dataclass(frozen=True, slots=True)
class Modification:
    """The modification list of an N-SET, to be laid over what is stored when its turn has come."""

    data: bytes
    syntax: Syntax
    received_at: datetime
    """Site wall clock: the end of a step whose device does not say when it ended."""
    reading: Reading = LENIENT

    def apply_to(self, data_set: bytes) -> PerformedState:
        """Merge: what is named is replaced as a whole, sequences included (PS3.4 F.7.2.2)."""
        stored = read_elements(data_set, Syntax.EXPLICIT_LITTLE, Limits(data_set_bytes=1 << 26))
        changes = _in_utf8(read_elements(self.data, self.syntax, self.reading.limits), self.reading)
        changes.pop(_CHARACTER_SET, None)
        notes: list[str] = []
        forbidden = tuple(sorted(NOT_IN_A_SET & changes.keys()))
        if forbidden:
            changed = tuple(tag for tag in forbidden if changes[tag] != stored.get(tag))
            if self.reading.is_strict:
                raise PerformedStepRefused(Refusal.INVALID_VALUE, forbidden, "not allowed in N-SET")
            if changed:
                notes.append("ignored: " + _named(changed))
            changes = {tag: element for tag, element in changes.items() if tag not in NOT_IN_A_SET}
        unknown = tuple(sorted(changes.keys() - stored.keys()))
        if unknown and self.reading.is_strict:
            raise PerformedStepRefused(Refusal.NO_SUCH_ATTRIBUTE, unknown, "not created by N-CREATE")
        merged = {**stored, **changes}
        if _status(merged) is not PerformedStatus.IN_PROGRESS:
            merged = self._finished(merged, notes)
        return _state(merged, tuple(notes))

    def _finished(self, merged: dict[int, Element], notes: list[str]) -> dict[int, Element]:
        if self.reading.is_strict:
            _require(merged, _FINAL_TYPE_1)
            return merged
        now = self.received_at
        filled = {
            _END_DATE: Element("DA", f"{now:%Y%m%d}".encode("ascii")),
            _END_TIME: Element("TM", time_text(now.replace(microsecond=0)).encode("ascii")),
        }
        for tag, element in filled.items():
            if _is_empty(merged.get(tag)):
                merged[tag] = element
                notes.append("filled: " + _named((tag,)))
        if _is_empty(merged.get(_SERIES)):
            notes.append("absent: " + _named((_SERIES,)))
        return merged


def select_attributes(
    data_set: bytes, wanted: tuple[int, ...], syntax: Syntax
) -> tuple[bytes, tuple[int, ...]]:
    """Give the wanted attributes of a stored step, all when none are named, and which it does not have."""
    stored = read_elements(data_set, Syntax.EXPLICIT_LITTLE, Limits(data_set_bytes=1 << 26))
    if not wanted:
        return write_elements(stored, syntax), ()
    chosen = {tag: stored[tag] for tag in wanted if tag in stored}
    if _CHARACTER_SET in stored:
        chosen[_CHARACTER_SET] = stored[_CHARACTER_SET]
    missing = tuple(tag for tag in wanted if tag not in stored)
    return write_elements(chosen, syntax), missing


def _require(elements: Elements, tags: tuple[int, ...]) -> None:
    absent = tuple(tag for tag in tags if tag not in elements)
    if absent:
        raise PerformedStepRefused(Refusal.MISSING_ATTRIBUTE, absent, "required attributes are absent")
    empty = tuple(tag for tag in tags if _is_empty(elements[tag]))
    if empty:
        raise PerformedStepRefused(Refusal.MISSING_VALUE, empty, "required attributes are empty")


def _is_empty(element: Element | None) -> bool:
    if element is None:
        return True
    return not element.items if element.items is not None else not element.value.strip(b" \x00")


def _status(elements: Elements) -> PerformedStatus:
    text = text_of(elements, _STATUS).strip().upper()
    try:
        return PerformedStatus(text)
    except ValueError:
        raise PerformedStepRefused(
            Refusal.INVALID_VALUE, (_STATUS,), "not a performed procedure step status"
        ) from None


def _invalid(elements: Elements) -> tuple[int, ...]:
    wrong = []
    if parse_date(text_of(elements, _START_DATE)) is None:
        wrong.append(_START_DATE)
    if parse_time(text_of(elements, _START_TIME)) is None:
        wrong.append(_START_TIME)
    items = elements[_SCHEDULED_STEP_ATTRIBUTES].items or ()
    if not all(UID.is_valid(text_of(item, _STUDY_UID)) for item in items):
        wrong.append(_STUDY_UID)
    return tuple(wrong)


def _named(tags: tuple[int, ...]) -> str:
    return " ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags)


# --- text ------------------------------------------------------------------------------------------------


def _in_utf8(elements: Elements, reading: Reading) -> dict[int, Element]:
    """Convert all text, and say so in (0008,0005) where it matters; group lengths would lie and are dropped."""
    codecs = codecs_of(character_set_of(elements) or reading.character_set)
    converted = _converted(elements, codecs)
    if converted.pop(_CHARACTER_SET, None) is not None or _is_beyond_ascii(converted):
        converted[_CHARACTER_SET] = Element("CS", b"ISO_IR 192")
    return converted


def _converted(elements: Elements, codecs: tuple[str, ...]) -> dict[int, Element]:
    converted: dict[int, Element] = {}
    for tag, element in elements.items():
        if tag & 0xFFFF == 0:
            continue
        if element.items is not None:
            items = tuple(_converted(item, codecs) for item in element.items)
            converted[tag] = Element("SQ", b"", items)
        elif element.vr in CHARACTER_VRS and (not element.value.isascii() or b"\x1b" in element.value):
            converted[tag] = Element(element.vr, decode(element.value, element.vr, codecs).encode("utf-8"))
        else:
            # What is stored and read again is even; so is this, or nothing would ever be equal.
            padded = len(element.value) % 2
            converted[tag] = element._replace(value=element.value + b" ") if padded else element
    return converted


def _is_beyond_ascii(elements: Elements) -> bool:
    for element in elements.values():
        if element.items is not None:
            if any(_is_beyond_ascii(item) for item in element.items):
                return True
        elif element.vr in CHARACTER_VRS and not element.value.isascii():
            return True
    return False


# --- what it says ----------------------------------------------------------------------------------------


def _state(elements: dict[int, Element], notes: tuple[str, ...]) -> PerformedState:
    items = (elements.get(_SCHEDULED_STEP_ATTRIBUTES) or Element("SQ")).items or ()
    data_set = write_elements(elements, Syntax.EXPLICIT_LITTLE)
    return PerformedState(
        status=_status(elements),
        data_set=data_set,
        items=tuple(
            PerformedItem(
                _uid(item, _STUDY_UID),
                _text(item, 0x00080050, 64),
                _text(item, 0x00401001, 64),
                _text(item, 0x00400009, 64),
            )
            for item in items
        ),
        person=_person(elements),
        performed_station_ae_title=_text(elements, 0x00400241, 16),
        modality=_text(elements, 0x00080060, 16),
        started_at=_instant(elements, _START_DATE, _START_TIME),
        ended_at=_instant(elements, _END_DATE, _END_TIME),
        series=_series(elements),
        discontinuation_reason=_reason(elements),
        notes=notes,
    )


def _text(elements: Elements, tag: int, limit: int) -> str | None:
    """Give a text that fits its column; one that does not is no identifier of ours."""
    text = text_of(elements, tag, _UTF_8).replace("\x00", "").strip()
    return text if text and len(text) <= limit else None


def _uid(elements: Elements, tag: int) -> str | None:
    text = text_of(elements, tag).strip(" \x00")
    return text if UID.is_valid(text) else None


def _person(elements: Elements) -> PersonEvidence:
    number = _text(elements, 0x00100020, 128)
    identifiers = (PatientIdentifier(number, _text(elements, 0x00100021, 128)),) if number else ()
    birth_date = parse_date(text_of(elements, 0x00100030))
    return PersonEvidence(
        identifiers,
        _text(elements, 0x00100010, 400),
        f"{birth_date:%Y%m%d}" if birth_date else None,
        _text(elements, 0x00100040, 16),
    )


def _instant(elements: Elements, date_tag: int, time_tag: int) -> str | None:
    day = parse_date(text_of(elements, date_tag))
    span = parse_time(text_of(elements, time_tag))
    if day is None:
        return None
    moment = "000000" if span is None or span.first is None else f"{span.first:%H%M%S}"
    return f"{day:%Y%m%d}{moment}"


def _series(elements: Elements) -> Mapping[str, tuple[str, ...]]:
    """List the objects of each series the step says it made."""
    series: dict[str, tuple[str, ...]] = {}
    for item in (elements.get(_SERIES) or Element("SQ")).items or ():
        uid = _uid(item, _SERIES_UID)
        if uid is None or len(series) >= _MAX_SERIES_LISTED:
            continue
        made = [
            made_uid
            for tag in (_IMAGES, _OTHER_OBJECTS)
            for reference in (item.get(tag) or Element("SQ")).items or ()
            if (made_uid := _uid(reference, _OBJECT_UID)) is not None
        ]
        series[uid] = (*series.get(uid, ()), *made)
    return series


def _reason(elements: Elements) -> str | None:
    items = (elements.get(_DISCONTINUATION_REASON) or Element("SQ")).items or ()
    return _text(items[0], 0x00080100, 16) if items else None
