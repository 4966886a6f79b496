"""Packs a worklist entry: each element in Explicit and in Implicit VR Little Endian, where each one starts.

What a pack is for is said in `answers`. Most attributes of an entry are one text; those are written at once by
a function made for the attribute. Everything else becomes an element first.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache, partial

from broker.dicom.objects.datasets import (
    SPECIAL,
    STEP_TAGS,
    attribute_named,
    element_of,
    values_of,
)
from broker.dicom.objects.elements import (
    CHARACTER_VRS,
    LONG_VRS,
    MAX_SHORT_BYTES,
    Element,
    Elements,
    write_little,
)
from broker.domain.orders import AttributeValue, WorklistEntry

HEADER = struct.Struct("<4s?xHHH")  # magic, has characters beyond ASCII, elements at the root, in the step
MAGIC = b"WLE1"
_LINES_VRS = frozenset(("LT", "ST", "UT"))
_NUMBER_VRS = frozenset(("US", "SS"))

_Written = tuple[int, bytes, bytes, bool]
"""Tag, explicit, implicit, has characters beyond ASCII."""
_WriteText = Callable[[str], _Written | None]


def pack_entry(entry: WorklistEntry) -> bytes:
    """Pack everything C-FIND may answer of an entry, text in UTF-8."""
    root: dict[int, _Written] = {}
    step: dict[int, _Written] = {}
    # What an entry has is a small part of what it may have, so its values lead and not the table.
    for keyword, value in values_of(entry).items():
        how = _how(keyword)
        if how is None:
            continue
        tag, write, in_step = how
        written = write(value) if isinstance(value, str) else _written_values(keyword, value)
        if written is not None:
            (step if in_step else root)[tag] = written
    for tag, special in SPECIAL.items():
        element = special(entry)
        if element is not None:
            root[tag] = _write(tag, element)
    return _join(sorted(root.values()), sorted(step.values()))


def pack(root: Elements, step: Elements) -> bytes:
    """Pack the elements of an entry."""
    return _join(
        [_write(tag, root[tag]) for tag in sorted(root)],
        [_write(tag, step[tag]) for tag in sorted(step)],
    )


def _join(root: list[_Written], step: list[_Written]) -> bytes:
    written = root + step
    count = len(written)
    data = [each[1] for each in written]
    data += [each[2] for each in written]
    # Each region ends with an end mark, where the next one starts.
    starts = [*itertools.accumulate(map(len, data), initial=0)]
    starts.insert(count, starts[count])
    return b"".join(
        (
            HEADER.pack(MAGIC, any(each[3] for each in written), len(root), len(step), 0),
            _numbers(count).pack(*[each[0] for each in written]),
            _numbers(2 * count + 2).pack(*starts),
            *data,
        )
    )


@lru_cache(maxsize=512)
def _numbers(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")


def _write(tag: int, element: Element) -> _Written:
    explicit, implicit = write_little(tag, element)
    return tag, explicit, implicit, _is_beyond_ascii((element,))


def _is_beyond_ascii(elements: Iterable[Element]) -> bool:
    for element in elements:
        if element.items is not None:
            if any(_is_beyond_ascii(item.values()) for item in element.items):
                return True
        elif element.vr in CHARACTER_VRS and not element.value.isascii():
            return True
    return False


@lru_cache(maxsize=2048)
def _written_values(keyword: str, value: AttributeValue) -> _Written | None:
    # Remembered: the same procedures are ordered for the same rooms all day.
    attribute = attribute_named(keyword)
    element = None if attribute is None else element_of(attribute, value)
    return None if attribute is None or element is None else _write(attribute.tag, element)


@lru_cache(maxsize=1024)
def _how(keyword: str) -> tuple[int, _WriteText, bool] | None:
    """Say where an attribute stands and what writes one text as it."""
    attribute = attribute_named(keyword)
    if attribute is None:
        return None
    plain = attribute.vr != "SQ" and attribute.vr not in _NUMBER_VRS
    write = _text_writer(attribute.tag, attribute.vr) if plain else partial(_written_values, keyword)
    return attribute.tag, write, attribute.tag in STEP_TAGS


def _text_writer(tag: int, vr: str) -> _WriteText:
    head = (tag >> 16 | (tag & 0xFFFF) << 16).to_bytes(4, "little")
    explicit_head = head + vr.encode("ascii") + (b"\x00\x00" if vr in LONG_VRS else b"")
    length_bytes = 4 if vr in LONG_VRS else 2
    keeps_lines, has_characters = vr in _LINES_VRS, vr in CHARACTER_VRS
    padding = b"\x00" if vr == "UI" else b" "

    def write(text: str) -> _Written | None:
        if keeps_lines:
            if not text.strip(" \\"):
                return None
        else:
            if not text.isprintable() or "\\" in text:
                # A backslash separates values (PS3.5 6.2), so it cannot be part of one.
                text = text.replace("\\", "/").replace("\n", " ")
            text = text.strip()
        value = text.encode("utf-8" if has_characters else "ascii", errors="ignore")
        if not value:
            return None
        beyond_ascii = has_characters and not value.isascii()
        size = len(value)
        if size & 1:
            value += padding
            size += 1
        if size > MAX_SHORT_BYTES:
            return _write(tag, Element(vr, value))
        length = size.to_bytes(4, "little")
        return (
            tag,
            b"".join((explicit_head, length[:length_bytes], value)),
            b"".join((head, length, value)),
            beyond_ascii,
        )

    return write
