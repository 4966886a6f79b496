"""Reads a C-FIND identifier: what is wanted, and what the answer must hold (PS3.4 K.4.1.1.3, C.4.1.1.3).

Devices ask in many dialects. Where an identifier breaks the standard but its meaning is plain, it is read; a
device that should be held to the letter has a strict profile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from broker.dicom.objects.answers import ReturnKeys, requested_character_set
from broker.dicom.objects.datasets import (
    KNOWN_TAGS,
    SPECIFIC_CHARACTER_SET,
    SPS_SEQUENCE,
    STEP_ATTRIBUTES,
    STEP_TAGS,
)
from broker.dicom.objects.elements import (
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
)
from broker.domain.devices import DEFAULT_DEVICE, DeviceProfile
from broker.domain.matching import (
    CODE_KEYS,
    NAME_KEYS,
    CodeCriterion,
    Criterion,
    DateCriterion,
    Key,
    NameCriterion,
    StartCriterion,
    TextCriterion,
    WorklistQuery,
    parse_date_key,
    parse_time_key,
)
from broker.domain.steps import StepStatus
from broker.domain.values import DateRange, TimeRange
from broker.errors import InvalidValue

_QUERY_RETRIEVE_LEVEL = 0x00080052
_CODE_VALUE, _CODING_SCHEME, _CODE_MEANING = 0x00080100, 0x00080102, 0x00080104
_LONG_CODE_VALUE, _URN_CODE_VALUE = 0x00080119, 0x00080120
_WHOLE_STEP = tuple(attribute.tag for attribute in STEP_ATTRIBUTES)
_CACHED_BYTES = 8 * 1024
_MAX_KEY_CHARACTERS = 64 * 1024
_MAX_SINGLE_KEY_CHARACTERS = 1024
"""Of a name, date or time; of what may be a list, _MAX_KEY_CHARACTERS."""
_MAX_PATTERNS = 128
"""Of one key: each is tried on every entry that nothing else rules out."""
_MAX_RETURN_KEYS = 512
"""A device asks for some 150 at most; how to answer is remembered by them."""
_SINGLE_KEYS = NAME_KEYS | {Key.START_DATE, Key.START_TIME, Key.BIRTH_DATE}

_KEY_TAGS: dict[int, Key] = {
    attribute.tag: key for key in Key for attribute in KNOWN_TAGS.values() if attribute.keyword == key.value
}


class IdentifierRefused(InvalidValue):
    """The identifier is not one of a worklist query."""

    dimse_status = 0xA900  # PS3.4 table K.4-1: identifier does not match SOP class

    def __init__(self, detail: str, *, elements: tuple[int, ...] = ()) -> None:
        """Say what is wrong, and in which elements."""
        super().__init__(detail)
        self.elements = elements


@dataclass(frozen=True, slots=True)
class Identifier:
    """An identifier that was understood."""

    query: WorklistQuery
    keys: ReturnKeys
    character_set: tuple[str, ...] | None
    """(0008,0005) of the request in the standard's spelling."""
    has_unsupported_keys: bool = False
    """It names an optional key whose existence we do not support (PS3.4 table K.4-1, FF01)."""


def read_identifier(
    data: bytes,
    syntax: Syntax,
    *,
    device: DeviceProfile = DEFAULT_DEVICE,
    calling_ae_title: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> Identifier:
    """Understand an identifier. Raises IdentifierRefused and MalformedDataSet.

    A device polls with the same bytes all day: small ones are remembered as understood.
    """
    if len(data) > _CACHED_BYTES:
        return _understand(data, syntax, device, calling_ae_title, limits)
    return _remembered(data, syntax, device, calling_ae_title, limits)


@dataclass(slots=True)
class _Draft:
    """Gathers what one identifier says."""

    codecs: tuple[str, ...]
    device: DeviceProfile
    criteria: list[Criterion] = field(default_factory=list)
    statuses: frozenset[StepStatus] | None = None
    ignored: list[str] = field(default_factory=list)
    root: list[int] = field(default_factory=list)
    step: list[int] | None = None
    items: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    seen: set[Key] = field(default_factory=set)
    date: DateRange | None = None
    time: TimeRange | None = None
    date_text: str = ""
    time_text: str = ""
    has_unsupported_keys: bool = False


def _understand(
    data: bytes, syntax: Syntax, device: DeviceProfile, calling_ae_title: str, limits: Limits
) -> Identifier:
    elements = read_elements(data, syntax, limits)
    terms = character_set_of(elements)
    draft = _Draft(codecs_of(terms or device.character_set), device)
    if device.is_strict and _QUERY_RETRIEVE_LEVEL in elements:
        raise IdentifierRefused("a worklist query has no level", elements=(_QUERY_RETRIEVE_LEVEL,))
    item = _step_item(elements.get(SPS_SEQUENCE), device)
    if item is not None:
        # The item is read first: where a key stands in it and at the root, the item is what is meant.
        draft.step = []
        for tag, element in item.items():
            if _is_return_key(tag):
                draft.step.append(tag)
                _key(draft, tag, element)
        if not item:
            draft.step = list(_WHOLE_STEP)
    for tag, element in elements.items():
        if tag != SPS_SEQUENCE and _is_return_key(tag):
            draft.root.append(tag)
            if tag in STEP_TAGS and not device.is_strict:
                draft.step = draft.step if draft.step is not None else []
                if tag not in draft.step:
                    draft.step.append(tag)
            _key(draft, tag, element)
    if len(draft.root) + len(draft.step or ()) + sum(len(keys) for _, keys in draft.items) > _MAX_RETURN_KEYS:
        raise IdentifierRefused(f"the identifier has more than {_MAX_RETURN_KEYS} keys")
    if draft.step is None and device.adds_step_item:
        draft.step = list(_WHOLE_STEP)
    if device.uses_calling_ae_title and calling_ae_title:
        draft.criteria = [c for c in draft.criteria if getattr(c, "key", None) is not Key.STATION_AE_TITLE]
        own = TextCriterion.parse(Key.STATION_AE_TITLE, calling_ae_title, policy=device.matching)
        if own is not None:
            draft.criteria.append(own)
    if draft.date is not None or draft.time is not None:
        draft.criteria.append(
            StartCriterion(
                draft.date, draft.time, draft.date_text, draft.time_text, device.matching.wrap_time
            )
        )
    return Identifier(
        WorklistQuery(tuple(draft.criteria), draft.statuses, tuple(draft.ignored)),
        ReturnKeys(
            tuple(sorted(draft.root)),
            None if draft.step is None else tuple(sorted(draft.step)),
            tuple(sorted(draft.items)),
        ),
        requested_character_set(terms),
        draft.has_unsupported_keys,
    )


_remembered = lru_cache(maxsize=1024)(_understand)


def _is_return_key(tag: int) -> bool:
    """Leave out group lengths, private elements, the character set and the level of query/retrieve."""
    return not (
        tag & 0xFFFF == 0 or (tag >> 16) & 1 or tag in (SPECIFIC_CHARACTER_SET, _QUERY_RETRIEVE_LEVEL)
    )


def _step_item(sequence: Element | None, device: DeviceProfile) -> Elements | None:
    """Give the one item that holds the keys of the step; empty when all of the step is wanted."""
    if sequence is None:
        return None
    if sequence.items is None:
        if sequence.value.strip(b" \x00"):
            raise IdentifierRefused("(0040,0100) is no sequence", elements=(SPS_SEQUENCE,))
        return {}
    if len(sequence.items) > 1 and device.is_strict:
        raise IdentifierRefused("(0040,0100) has more than one item", elements=(SPS_SEQUENCE,))
    return next((item for item in sequence.items if item), {})


def _key(draft: _Draft, tag: int, element: Element) -> None:
    """Take one element as a return key and, where it has a value, as a matching key."""
    key = _KEY_TAGS.get(tag)
    if element.items is not None:
        _sequence_key(draft, tag, key, element)
        return
    if key is None:
        if tag not in KNOWN_TAGS:
            draft.has_unsupported_keys = True
        if element.value.strip(b" \x00*"):
            draft.ignored.append(f"({tag >> 16:04X},{tag & 0xFFFF:04X}): not a matching key")
        return
    if key in draft.seen or not element.value:
        return
    text = decode(element.value, element.vr, draft.codecs)
    if text.strip(" \x00"):
        draft.seen.add(key)
        if len(text) > (_MAX_SINGLE_KEY_CHARACTERS if key in _SINGLE_KEYS else _MAX_KEY_CHARACTERS):
            raise IdentifierRefused("a key is longer than any value can be", elements=(tag,))
        _value_key(draft, tag, key, text)


def _value_key(draft: _Draft, tag: int, key: Key, text: str) -> None:
    device = draft.device
    text = text.strip(" \x00\"'")
    criterion: Criterion | None = None
    try:
        if key is Key.START_DATE:
            draft.date, draft.date_text = parse_date_key(text), text
        elif key is Key.START_TIME:
            draft.time, draft.time_text = parse_time_key(text), text
        elif key is Key.BIRTH_DATE:
            criterion = DateCriterion.parse(key, text)
        elif key is Key.SPS_STATUS:
            draft.statuses = _statuses(text)
        elif key in NAME_KEYS:
            criterion = NameCriterion.parse(key, text, policy=device.matching)
        elif key is Key.STUDY_INSTANCE_UID:
            criterion = None if not text.strip("*") else TextCriterion.parse(key, text, wildcards=False)
        elif key is Key.MODALITY:
            if text.upper() not in device.any_modality:
                criterion = TextCriterion.parse(key, text, policy=device.matching, comma_lists=True)
        elif key is Key.STATION_AE_TITLE:
            if text.upper() not in device.any_station:
                criterion = TextCriterion.parse(key, text, policy=device.matching)
        elif key in CODE_KEYS:
            raise IdentifierRefused("a code sequence key is no sequence", elements=(tag,))
        else:
            criterion = TextCriterion.parse(key, text, policy=device.matching)
    except IdentifierRefused:
        raise
    except ValueError as problem:
        if device.is_strict:
            raise IdentifierRefused(f"{key.value}: {problem}", elements=(tag,)) from None
        draft.ignored.append(f"{key.value}: {problem}")
    if criterion is not None:
        _check_patterns(criterion, tag)
        draft.criteria.append(criterion)


def _check_patterns(criterion: Criterion | None, tag: int) -> None:
    if isinstance(criterion, TextCriterion) and len(criterion.patterns) > _MAX_PATTERNS:
        raise IdentifierRefused(f"a key has more than {_MAX_PATTERNS} patterns", elements=(tag,))


def _sequence_key(draft: _Draft, tag: int, key: Key | None, element: Element) -> None:
    items = element.items or ()
    item = next((item for item in items if item), None)
    if item is None:
        return  # PS3.4 C.2.2.2.6: universal, and the whole sequence is returned
    wanted = tuple(sorted(child for child in item if _is_return_key(child)))
    if _CODE_VALUE in wanted:
        # A code that is too long for Code Value stands in another attribute (PS3.3 8.8).
        wanted = (*wanted, _LONG_CODE_VALUE, _URN_CODE_VALUE)
    draft.items.append((tag, wanted))
    if tag not in KNOWN_TAGS:
        draft.has_unsupported_keys = True
    if key not in CODE_KEYS or key is None or key in draft.seen:
        return
    criterion = CodeCriterion.parse(
        key,
        value=text_of(item, _CODE_VALUE, draft.codecs)
        or text_of(item, _LONG_CODE_VALUE, draft.codecs)
        or text_of(item, _URN_CODE_VALUE, draft.codecs),
        scheme=text_of(item, _CODING_SCHEME, draft.codecs),
        meaning=text_of(item, _CODE_MEANING, draft.codecs),
    )
    if criterion is not None:
        for part in (criterion.value, criterion.scheme, criterion.meaning):
            _check_patterns(part, tag)
        draft.seen.add(key)
        draft.criteria.append(criterion)


def _statuses(text: str) -> frozenset[StepStatus] | None:
    """Give the statuses a query names; a held step is never among them."""
    criterion = TextCriterion.parse(Key.SPS_STATUS, text)
    if criterion is None:
        return None
    return frozenset(
        status
        for status in StepStatus
        if status is not StepStatus.HELD
        and (
            status.value in criterion.exact
            or any(pattern.matches(status.value) for pattern in criterion.patterns)
        )
    )
