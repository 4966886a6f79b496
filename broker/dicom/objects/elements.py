"""Reads and writes data elements, bounded, without a data set library (PS3.5 section 7).

Worklist identifiers and performed procedure steps are small trees of text. This codec keeps values as bytes in
little endian order and bounds size, depth and number, so that no peer can make a query cost more than its length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom.charset import decode_bytes, python_encoding

from broker.domain.character_sets import by_dicom_term
from broker.errors import InvalidValue

UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_KNOWN_VRS = LONG_VRS | frozenset(
    ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST",
     "TM", "UI", "UL", "US")
)  # fmt: skip
CHARACTER_VRS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
"""VRs whose bytes depend on (0008,0005) (PS3.5 6.1.2.3)."""
_SINGLE_TEXT_VRS = frozenset(("LT", "ST", "UT", "UR"))
_WORD_BYTES = {"US": 2, "SS": 2, "AT": 2, "OW": 2, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4, "FD": 8,
               "OD": 8, "SV": 8, "UV": 8, "OV": 8}  # fmt: skip
_PADDING = b" \x00"


class MalformedDataSet(InvalidValue):
    """The data set cannot be read."""


class Syntax(Enum):
    """Encodings of a data set (PS3.5 annex A)."""

    IMPLICIT_LITTLE = "1.2.840.10008.1.2"
    EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
    EXPLICIT_BIG = "1.2.840.10008.1.2.2"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a peer may make us read."""

    data_set_bytes: int = 4 * 1024 * 1024
    depth: int = 32
    elements: int = 100_000


DEFAULT_LIMITS = Limits()


class Element(NamedTuple):
    """One element: bytes, or the items of a sequence."""

    vr: str
    value: bytes = b""
    items: tuple[Mapping[int, Element], ...] | None = None


Elements = Mapping[int, Element]


# --- reading ---------------------------------------------------------------------------------------------


def read_elements(data: bytes, syntax: Syntax, limits: Limits = DEFAULT_LIMITS) -> dict[int, Element]:
    """Read a whole data set. Raises MalformedDataSet."""
    if len(data) > limits.data_set_bytes:
        raise MalformedDataSet(f"the data set is larger than {limits.data_set_bytes} bytes")
    return _Reader(data, syntax, limits).read()


class _Reader:
    """Holds the bytes and the budget while one data set is read."""

    __slots__ = ("_big", "_data", "_depth", "_explicit", "_left", "_limits", "_u16", "_u32")

    def __init__(self, data: bytes, syntax: Syntax, limits: Limits) -> None:
        self._data = data
        self._limits = limits
        self._left = limits.elements
        self._depth = 0
        self._explicit = syntax is not Syntax.IMPLICIT_LITTLE
        self._big = syntax is Syntax.EXPLICIT_BIG
        order = ">" if self._big else "<"
        self._u16 = struct.Struct(order + "HHH")
        self._u32 = struct.Struct(order + "HHI")

    def read(self) -> dict[int, Element]:
        """Read from the first byte to the last."""
        elements, _ = self._elements(0, len(self._data), until_delimiter=False)
        return elements

    def _elements(self, at: int, end: int, *, until_delimiter: bool) -> tuple[dict[int, Element], int]:
        data, explicit = self._data, self._explicit
        unpack = self._u32.unpack_from
        elements: dict[int, Element] = {}
        while at < end:
            if end - at < 8:
                raise MalformedDataSet("an element is cut short")
            group, number, length = unpack(data, at)
            tag = group << 16 | number
            if tag == _ITEM_END and until_delimiter:
                return elements, at + 8
            self._left -= 1
            if self._left < 0:
                raise MalformedDataSet(f"there are more than {self._limits.elements} elements")
            if explicit and group != 0xFFFE:
                vr = data[at + 4 : at + 6].decode("latin_1")
                if vr in LONG_VRS:
                    if end - at < 12:
                        raise MalformedDataSet("an element is cut short")
                    length = int.from_bytes(data[at + 8 : at + 12], "big" if self._big else "little")
                    at += 12
                elif vr in _KNOWN_VRS:
                    length = int.from_bytes(data[at + 6 : at + 8], "big" if self._big else "little")
                    at += 8
                else:
                    raise MalformedDataSet("an element has an unknown VR")
            else:
                vr = vr_of(tag)
                at += 8
            if vr == "SQ" or length == UNDEFINED_LENGTH:
                items, at = self._items(at, end, length, implicit=vr == "UN" and explicit)
                elements[tag] = Element("SQ", b"", items)
                continue
            stop = at + length
            if stop > end:
                raise MalformedDataSet("an element is longer than what holds it")
            value = data[at:stop]
            if self._big and vr in _WORD_BYTES:
                value = _swapped(value, _WORD_BYTES[vr])
            elements[tag] = Element(vr, value)
            at = stop
        if until_delimiter:
            raise MalformedDataSet("an item does not end")
        return elements, at

    def _items(self, at: int, end: int, length: int, *, implicit: bool) -> tuple[tuple[Elements, ...], int]:
        """Read the items of a sequence; an UN of undefined length is in implicit VR (PS3.5 6.2.2 note 2)."""
        self._depth += 1
        if self._depth > self._limits.depth:
            raise MalformedDataSet(f"sequences are nested deeper than {self._limits.depth}")
        explicit, self._explicit = self._explicit, self._explicit and not implicit
        undefined = length == UNDEFINED_LENGTH
        stop = end if undefined else at + length
        if stop > end:
            raise MalformedDataSet("a sequence is longer than what holds it")
        items: list[Elements] = []
        ended = not undefined
        while at < stop:
            if stop - at < 8:
                raise MalformedDataSet("an item is cut short")
            group, number, item_length = self._u32.unpack_from(self._data, at)
            tag = group << 16 | number
            at += 8
            if tag == _SEQUENCE_END and undefined:
                ended = True
                break
            if tag != _ITEM:
                raise MalformedDataSet("a sequence holds something that is no item")
            self._left -= 1
            if self._left < 0:
                raise MalformedDataSet(f"there are more than {self._limits.elements} elements")
            if item_length == UNDEFINED_LENGTH:
                item, at = self._elements(at, stop, until_delimiter=True)
            else:
                if at + item_length > stop:
                    raise MalformedDataSet("an item is longer than its sequence")
                item, at = self._elements(at, at + item_length, until_delimiter=False)
            items.append(item)
        if not ended:
            raise MalformedDataSet("a sequence does not end")
        self._explicit = explicit
        self._depth -= 1
        return tuple(items), at


def vr_of(tag: int) -> str:
    """Give the VR of a tag as the standard lists it; UN where it does not (PS3.6)."""
    known = _VRS.get(tag)
    if known is None:
        if len(_VRS) > 20_000:  # a peer that sends every private tag must not grow the table for ever
            _VRS.clear()
        known = _VRS[tag] = _look_up_vr(tag)
    return known


_VRS: dict[int, str] = {}


def _look_up_vr(tag: int) -> str:
    if tag & 0xFFFF == 0:
        return "UL"
    entry = DicomDictionary.get(tag)
    if entry is None:
        group = tag >> 16
        if 0x5000 <= group <= 0x60FF or 0x1000 <= group <= 0x10FF:
            for pattern, repeated in RepeatersDictionary.items():
                if all(p in ("x", c) for p, c in zip(pattern.lower(), f"{tag:08x}", strict=True)):
                    return str(repeated[0])[:2]
        return "UN"
    return str(entry[0])[:2]


def _swapped(value: bytes, size: int) -> bytes:
    if len(value) % size:
        raise MalformedDataSet("a number is cut short")
    swapped = bytearray(len(value))
    for offset in range(size):
        swapped[offset::size] = value[size - 1 - offset :: size]
    return bytes(swapped)


# --- writing ---------------------------------------------------------------------------------------------

_IMPLICIT = struct.Struct("<HHI")
_EXPLICIT = {"<": struct.Struct("<HH2sH"), ">": struct.Struct(">HH2sH")}
_EXPLICIT_LONG = {"<": struct.Struct("<HH2s2xI"), ">": struct.Struct(">HH2s2xI")}
_ITEM_HEADER = {"<": struct.Struct("<HHI"), ">": struct.Struct(">HHI")}
_ITEM_HEAD = b"\xfe\xff\x00\xe0"
MAX_SHORT_BYTES = 0xFFFE


def write_element(tag: int, element: Element, syntax: Syntax) -> bytes:
    """Write one element, sequences and items with explicit lengths."""
    order = ">" if syntax is Syntax.EXPLICIT_BIG else "<"
    vr = element.vr
    if element.items is not None:
        header = _ITEM_HEADER[order]
        parts: list[bytes] = []
        for item in element.items:
            body = write_elements(item, syntax)
            parts.append(header.pack(0xFFFE, 0xE000, len(body)))
            parts.append(body)
        value, vr = b"".join(parts), "SQ"
    else:
        value = element.value
        if len(value) % 2:
            value += b"\x00" if vr in ("UI", "OB", "UN") else b" "
        if order == ">" and vr in _WORD_BYTES:
            value = _swapped(value, _WORD_BYTES[vr])
    group, number = tag >> 16, tag & 0xFFFF
    if syntax is Syntax.IMPLICIT_LITTLE:
        return _IMPLICIT.pack(group, number, len(value)) + value
    if vr in LONG_VRS:
        return _EXPLICIT_LONG[order].pack(group, number, vr.encode("ascii"), len(value)) + value
    if len(value) > MAX_SHORT_BYTES:
        # PS3.5 6.2.2 note 5: what no longer fits a 16-bit length travels as UN.
        return _EXPLICIT_LONG[order].pack(group, number, b"UN", len(value)) + value
    return _EXPLICIT[order].pack(group, number, vr.encode("ascii"), len(value)) + value


def write_little(tag: int, element: Element) -> tuple[bytes, bytes]:
    """Write one element in Explicit and in Implicit VR Little Endian, going over its value once."""
    vr = element.vr
    head = (tag >> 16 | (tag & 0xFFFF) << 16).to_bytes(4, "little")
    if element.items is None:
        value = element.value
        size = len(value)
        if size % 2:
            size += 1
            value += b"\x00" if vr in ("UI", "OB", "UN") else b" "
        long_size = size.to_bytes(4, "little")
        implicit = head + long_size + value
        if size <= MAX_SHORT_BYTES and vr not in LONG_VRS:
            return head + vr.encode("ascii") + long_size[:2] + value, implicit
        # PS3.5 6.2.2 note 5: what no longer fits a 16-bit length travels as UN.
        name = vr.encode("ascii") if vr in LONG_VRS else b"UN"
        return head + name + b"\x00\x00" + long_size + value, implicit
    explicit_items: list[bytes] = []
    implicit_items: list[bytes] = []
    for item in element.items:
        written = [write_little(child, item[child]) for child in sorted(item)]
        for items, place in ((explicit_items, 0), (implicit_items, 1)):
            body = b"".join([both[place] for both in written])
            items.extend((_ITEM_HEAD, len(body).to_bytes(4, "little"), body))
    explicit, implicit = b"".join(explicit_items), b"".join(implicit_items)
    return (
        head + b"SQ\x00\x00" + len(explicit).to_bytes(4, "little") + explicit,
        head + len(implicit).to_bytes(4, "little") + implicit,
    )


def write_elements(elements: Elements, syntax: Syntax) -> bytes:
    """Write elements in the order of their tags (PS3.5 7.1)."""
    return b"".join(write_element(tag, elements[tag], syntax) for tag in sorted(elements))


# --- text ------------------------------------------------------------------------------------------------


def codecs_of(terms: Iterable[str], default: str = "iso8859_1") -> tuple[str, ...]:
    """Give the codecs for the values of (0008,0005); an unknown or empty single term reads as the default.

    A device that sends bytes above 7F without naming a character set nearly always means Latin-1.
    """
    names = [term.strip(" \x00") for term in terms]
    if not any(names):
        return (default,)
    codecs: list[str] = []
    for name in names:
        if not name:
            codecs.append("iso8859_1" if len(names) == 1 else python_encoding[""])
            continue
        found = by_dicom_term(name)
        if found is None:
            codecs.append(default)
        elif len(names) == 1:
            codecs.append(default if found.codec == "ascii" else found.codec)
        else:
            codecs.append(python_encoding.get(found.dicom_extension or "", found.codec))
    return tuple(codecs)


def decode(value: bytes, vr: str, codecs: tuple[str, ...]) -> str:
    """Decode the bytes of a text element; a byte that fits no set becomes U+FFFD, never an error."""
    value = value.strip(_PADDING) if vr not in _SINGLE_TEXT_VRS else value.rstrip(_PADDING)
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    if vr not in CHARACTER_VRS:
        return value.decode("iso8859_1")
    if len(codecs) == 1 and b"\x1b" not in value:
        return value.decode(codecs[0], errors="replace")
    if len(codecs) == 1:
        codecs = (codecs[0], "iso2022_jp", "iso2022_jp_2", "euc_kr", "iso_ir_58")
    try:
        # PS3.5 6.1.2.5.3: designations end at these delimiters.
        text: str = decode_bytes(value, list(codecs), {0xD, 0xA, 0x9, 0xC, 0x5C, 0x5E, 0x3D})
    except (LookupError, UnicodeError):
        return value.decode("iso8859_1")
    return text.replace("\x1b$)A", "")  # pydicom leaves the designation of ISO 2022 IR 58 in the text


def text_of(elements: Elements, tag: int, codecs: tuple[str, ...] = ("iso8859_1",)) -> str:
    """Give the text of an element; empty when it is absent, empty or a sequence."""
    element = elements.get(tag)
    return "" if element is None or not element.value else decode(element.value, element.vr, codecs)


def character_set_of(elements: Elements) -> tuple[str, ...]:
    """Give the values of (0008,0005)."""
    element = elements.get(0x00080005)
    if element is None:
        return ()
    return tuple(decode(element.value, "CS", ()).split("\\")) if element.value.strip(_PADDING) else ()
