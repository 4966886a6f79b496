"""Joins worklist answers from elements that were encoded when the entry changed.

Encoding a data set for every answer was the largest cost of a worklist. So an entry is packed once: each element
in Explicit and in Implicit VR Little Endian, text in UTF-8. An answer is then a few slices of the pack, those the
request named, with the step item around its part. Other character sets, big endian and device quirks make a new
pack from the old one first, and that is remembered.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from broker.dicom.objects.code_extensions import encode_extended
from broker.dicom.objects.datasets import (
    KNOWN_TAGS,
    SPECIFIC_CHARACTER_SET,
    SPS_SEQUENCE,
    STEP_TAGS,
    Return,
)
from broker.dicom.objects.elements import (
    CHARACTER_VRS,
    Element,
    Elements,
    Syntax,
    codecs_of,
    read_elements,
    write_element,
)
from broker.dicom.objects.packing import HEADER, MAGIC, pack, pack_entry
from broker.domain.character_sets import canonical_dicom_terms, transliterate
from broker.domain.orders import WorklistEntry

UNICODE = ("ISO_IR 192",)
NAME_NOT_WRITABLE = b"UNKNOWN"
_PATIENT_NAME = 0x00100010


class WorklistEncoder:
    """Encodes entries for the database; the StepEncoder of the DICOM side."""

    def encode(self, entry: WorklistEntry) -> bytes:
        """Pack everything C-FIND may answer of an entry."""
        return pack_entry(entry)


def unpack(packed: bytes) -> tuple[dict[int, Element], dict[int, Element]]:
    """Read a pack back into the elements at the root and in the step item."""
    roots, steps, _, starts, base = _layout(packed)
    data = packed[base:]
    count = roots + steps
    return (
        read_elements(data[: starts[roots]], Syntax.EXPLICIT_LITTLE),
        read_elements(data[starts[roots] : starts[count]], Syntax.EXPLICIT_LITTLE),
    )


def _layout(packed: bytes) -> tuple[int, int, bytes, tuple[int, ...], int]:
    """Give the numbers of elements, the bytes of the tags, where elements start, and where data begins."""
    magic, _, roots, steps, _ = HEADER.unpack_from(packed)
    if magic != MAGIC:
        raise ValueError("not a packed worklist entry")
    count = roots + steps
    tags_end = HEADER.size + 4 * count
    starts = struct.unpack_from(f"<{2 * count + 2}I", packed, tags_end)
    return roots, steps, packed[HEADER.size : tags_end], starts, tags_end + 4 * len(starts)


# --- what is asked ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReturnKeys:
    """Names what an answer holds: the attributes the request had, with a value or without."""

    root: tuple[int, ...]
    step: tuple[int, ...] | None = None
    """None when the request had no Scheduled Procedure Step Sequence: then the answer has none."""
    items: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Sequences whose item the request spelt out, with the attributes it wants."""


@dataclass(frozen=True, slots=True)
class AnswerStyle:
    """How one device likes its answers."""

    syntax: Syntax = Syntax.EXPLICIT_LITTLE
    character_sets: tuple[tuple[str, ...], ...] = (("ISO_IR 100",),)
    """Values of (0008,0005) to try, in order."""
    unicode_allowed: bool = True
    """Answer in ISO_IR 192 what fits none of them; else transliterate."""
    umlauts_as_two: bool = True
    always_character_set: bool = True
    """Name the character set of a plain ASCII answer, too."""
    omit_empty_sequences: bool = False
    single_code: bool = False
    alphabetic_only: bool = False


class AnswerWriter:
    """Writes the answers of one query."""

    __slots__ = ("_keys", "_plain", "_programs", "_quirks", "_style", "number")

    def __init__(self, keys: ReturnKeys, style: AnswerStyle) -> None:
        self.number = next(_numbers)
        self._keys = keys
        self._style = style
        self._programs: dict[bytes, _Program] = {}
        first = style.character_sets[0] if style.character_sets else UNICODE
        self._plain = _encoded_terms(first, style.syntax) if style.always_character_set else b""
        self._quirks = bool(keys.items or style.single_code or style.alphabetic_only)

    def write(self, packed: bytes) -> bytes:
        """Write the answer for one packed entry."""
        style = self._style
        head = self._plain
        if packed[4]:
            packed, terms = in_character_set(packed, style)
            head = _encoded_terms(terms, style.syntax)
        if self._quirks:
            packed = _adapted(packed, self._keys.items, style)
        if style.syntax is Syntax.EXPLICIT_BIG:
            return _big_endian(packed, self._keys, head, omit_empty_sequences=style.omit_empty_sequences)
        roots, _, tags, starts, base = _layout(packed)
        # The place of the step's own elements is part of what the tags look like to a program.
        shape = packed[6:8] + tags
        program = self._programs.get(shape)
        if program is None:
            if len(self._programs) >= _MAX_PROGRAMS:
                self._programs.clear()
            program = _program(tags, roots, self._keys, style.syntax, style.omit_empty_sequences)
            self._programs[shape] = program
        parts = [head]
        for constant, first, last in program.before:
            parts.append(constant if first < 0 else packed[base + starts[first] : base + starts[last]])
        if program.has_step:
            item = b"".join(
                [
                    constant if first < 0 else packed[base + starts[first] : base + starts[last]]
                    for constant, first, last in program.step
                ]
            )
            parts.append(_sequence_header(len(item), style.syntax))
            parts.append(item)
            for constant, first, last in program.after:
                parts.append(constant if first < 0 else packed[base + starts[first] : base + starts[last]])
        return b"".join(parts)


@lru_cache(maxsize=1024)
def answer_writer(keys: ReturnKeys, style: AnswerStyle) -> AnswerWriter:
    """Give the writer for a kind of query; devices poll with the same keys all day."""
    return AnswerWriter(keys, style)


class AnswerCache:
    """Remembers written answers by writer, step and revision: pure results, never stale.

    When it is full it starts afresh; the next poll of each device fills it again.
    """

    def __init__(self, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: dict[tuple[int, int, int], bytes] = {}

    def write(self, writer: AnswerWriter, entries: Iterable[tuple[int, int, bytes]]) -> list[bytes]:
        """Give the answers for packed entries (step, revision, pack), written now or before."""
        number, known = writer.number, self._answers
        answers: list[bytes] = []
        for step, revision, packed in entries:
            key = (number, step, revision)
            answer = known.get(key)
            if answer is None:
                answer = writer.write(packed)
                if self._bytes >= self._max_bytes:
                    known = self._answers = {}
                    self._bytes = 0
                known[key] = answer
                self._bytes += len(answer) + _ENTRY_BYTES
            answers.append(answer)
        return answers


_numbers = itertools.count()
_MAX_PROGRAMS = 256
_ENTRY_BYTES = 250
_EXPLICIT_SEQUENCE = struct.Struct("<HH2s2xIHHI")
_IMPLICIT_SEQUENCE = struct.Struct("<HHIHHI")


def _sequence_header(item_bytes: int, syntax: Syntax) -> bytes:
    if syntax is Syntax.EXPLICIT_LITTLE:
        return _EXPLICIT_SEQUENCE.pack(0x0040, 0x0100, b"SQ", item_bytes + 8, 0xFFFE, 0xE000, item_bytes)
    return _IMPLICIT_SEQUENCE.pack(0x0040, 0x0100, item_bytes + 8, 0xFFFE, 0xE000, item_bytes)


@lru_cache(maxsize=256)
def _encoded_terms(terms: tuple[str, ...], syntax: Syntax) -> bytes:
    # PS3.3 C.12.1.1.2: the default repertoire is said by leaving (0008,0005) out; it is never zero length.
    if not any(terms) or terms == ("ISO_IR 6",):
        return b""
    value = "\\".join(terms).encode("ascii")
    return write_element(SPECIFIC_CHARACTER_SET, Element("CS", value), syntax)


# --- slicing ---------------------------------------------------------------------------------------------

_Piece = tuple[bytes, int, int]


@dataclass(frozen=True, slots=True)
class _Program:
    """Lists the pieces of an answer: a constant, or the elements from one place of the pack to another."""

    before: tuple[_Piece, ...]
    has_step: bool
    step: tuple[_Piece, ...]
    after: tuple[_Piece, ...]


@lru_cache(maxsize=2048)
def _program(
    tags: bytes, roots: int, keys: ReturnKeys, syntax: Syntax, omit_empty_sequences: bool
) -> _Program:
    """Plan the slices once for all entries that know the same attributes."""
    known = struct.unpack(f"<{len(tags) // 4}I", tags)
    # The implicit region follows the explicit one, its starts after one end mark.
    shift = 0 if syntax is Syntax.EXPLICIT_LITTLE else len(known) + 1
    places = {tag: place + shift for place, tag in enumerate(known[:roots])}
    step_places = {tag: place + roots + shift for place, tag in enumerate(known[roots:])}
    root_tags = sorted(set(keys.root) - {SPS_SEQUENCE, SPECIFIC_CHARACTER_SET})

    def pieces(wanted: list[int], at: Mapping[int, int]) -> tuple[_Piece, ...]:
        found: list[_Piece] = []
        for tag in wanted:
            place = at.get(tag)
            if place is None:
                empty = _empty(tag, syntax, omit_empty_sequences=omit_empty_sequences)
                if empty and found and found[-1][1] < 0:
                    found[-1] = (found[-1][0] + empty, -1, -1)
                elif empty:
                    found.append((empty, -1, -1))
            elif found and found[-1][2] == place:
                found[-1] = (b"", found[-1][1], place + 1)
            else:
                found.append((b"", place, place + 1))
        return tuple(found)

    # A device that puts step attributes at the root gets them where it asked (outside the standard).
    at_root = {**{tag: place for tag, place in step_places.items() if tag in STEP_TAGS}, **places}
    if keys.step is None:
        return _Program(pieces(root_tags, at_root), has_step=False, step=(), after=())
    return _Program(
        pieces([tag for tag in root_tags if tag < SPS_SEQUENCE], at_root),
        has_step=True,
        step=pieces(sorted(set(keys.step)), {**places, **step_places}),
        after=pieces([tag for tag in root_tags if tag > SPS_SEQUENCE], at_root),
    )


def _empty(tag: int, syntax: Syntax, *, omit_empty_sequences: bool) -> bytes:
    """Write an attribute without a value, if it is one we know (PS3.4 C.2.2.1.3); else nothing."""
    attribute = KNOWN_TAGS.get(tag)
    if attribute is None:
        return b""
    is_sequence = attribute.vr == "SQ"
    if is_sequence and (omit_empty_sequences or attribute.returned is Return.OPTIONAL):
        return b""
    return write_element(tag, Element(attribute.vr, b"", () if is_sequence else None), syntax)


def _big_endian(packed: bytes, keys: ReturnKeys, head: bytes, *, omit_empty_sequences: bool) -> bytes:
    """Write an answer for the few devices that speak Explicit VR Big Endian only."""
    little = AnswerWriter(
        replace(keys, items=()),
        AnswerStyle(always_character_set=False, omit_empty_sequences=omit_empty_sequences, character_sets=()),
    ).write(b"".join((packed[:4], b"\x00", packed[5:])))
    elements = read_elements(little, Syntax.EXPLICIT_LITTLE)
    return head + b"".join(write_element(tag, elements[tag], Syntax.EXPLICIT_BIG) for tag in sorted(elements))


# --- character sets and quirks ---------------------------------------------------------------------------


@lru_cache(maxsize=8192)
def in_character_set(packed: bytes, style: AnswerStyle) -> tuple[bytes, tuple[str, ...]]:
    """Make a pack a device can read, and name its character set.

    The first set that has all characters wins, then Unicode where the device takes it; else the text is
    transliterated into the first set. No character ever becomes a question mark.
    """
    root, step = unpack(packed)
    for terms in style.character_sets:
        if terms == UNICODE:
            return packed, UNICODE
        recoded = _recoded(root, terms), _recoded(step, terms)
        if recoded[0] is not None and recoded[1] is not None:
            return pack(recoded[0], recoded[1]), terms
    if style.unicode_allowed or not style.character_sets:
        return packed, UNICODE
    terms = style.character_sets[0]
    codec = _writing_codec(terms)
    written = [_transliterated(elements, codec, style.umlauts_as_two) for elements in (root, step)]
    name = written[0].get(_PATIENT_NAME)
    if name is not None and not name.value.strip(b" ^="):
        # Type 1: a name of which nothing can be written is better unknown than wrong.
        written[0][_PATIENT_NAME] = Element("PN", NAME_NOT_WRITABLE)
    return pack(written[0], written[1]), terms


def _writing_codec(terms: tuple[str, ...]) -> str:
    """Give the codec of the first set; the default repertoire is written as ASCII, however it is read."""
    if terms[0] in ("", "ISO_IR 6", "ISO 2022 IR 6"):
        return "ascii"
    return codecs_of(terms[:1])[0]


def _recoded(elements: Elements, terms: tuple[str, ...]) -> dict[int, Element] | None:
    recoded: dict[int, Element] = {}
    for tag, element in elements.items():
        if element.items is not None:
            items = [_recoded(item, terms) for item in element.items]
            if any(item is None for item in items):
                return None
            recoded[tag] = Element("SQ", b"", tuple(item for item in items if item is not None))
        elif element.vr in CHARACTER_VRS and not element.value.isascii():
            value = encode_text(element.value.decode("utf-8").rstrip(" "), terms, is_name=element.vr == "PN")
            if value is None:
                return None
            recoded[tag] = Element(element.vr, value)
        else:
            recoded[tag] = element
    return recoded


def encode_text(text: str, terms: tuple[str, ...], *, is_name: bool = False) -> bytes | None:
    """Encode a text in a character set; nothing when a character has no place in it."""
    if len(terms) > 1 or terms[0].startswith("ISO 2022"):
        return encode_extended(text, terms, delimiters="^=\\" if is_name else "\\\r\n\t\f")
    codec = _writing_codec(terms)
    try:
        encoded = text.encode(codec)
    except UnicodeEncodeError:
        return None
    # ISO_IR 13 is JIS X 0201, one byte each; Python's codec would go on to JIS X 0208.
    return None if codec == "shift_jis" and len(encoded) != len(text) else encoded


def _transliterated(elements: Elements, codec: str, umlauts_as_two: bool) -> dict[int, Element]:
    written: dict[int, Element] = {}
    for tag, element in elements.items():
        if element.items is not None:
            items = tuple(_transliterated(item, codec, umlauts_as_two) for item in element.items)
            written[tag] = Element("SQ", b"", items)
        elif element.vr in CHARACTER_VRS and not element.value.isascii():
            text = element.value.decode("utf-8").rstrip(" ")
            if element.vr == "PN":
                text = "=".join(_written_group(group, codec, umlauts_as_two) for group in text.split("="))
                text = text.rstrip("=")
            else:
                text = transliterate(text, codec, umlauts_as_two=umlauts_as_two)
            written[tag] = Element(element.vr, text.encode(codec))
        else:
            written[tag] = element
    return written


def _written_group(group: str, codec: str, umlauts_as_two: bool) -> str:
    """Write one name group, or nothing when a component of it would vanish: half a name is another name."""
    components = group.split("^")
    written = [transliterate(part, codec, umlauts_as_two=umlauts_as_two).strip() for part in components]
    if any(part.strip() and not kept for part, kept in zip(components, written, strict=True)):
        return ""
    return "^".join(written)


@lru_cache(maxsize=8192)
def _adapted(packed: bytes, items: tuple[tuple[int, tuple[int, ...]], ...], style: AnswerStyle) -> bytes:
    """Narrow code items to what the request spelt out, and bow to what a device cannot take."""
    wanted = dict(items)
    root, step = unpack(packed)
    for elements in (root, step):
        for tag, element in elements.items():
            if element.items is not None:
                children = element.items[:1] if style.single_code else element.items
                keep = wanted.get(tag)
                if keep:
                    children = tuple(
                        {child: item[child] for child in item if child in keep} for item in children
                    )
                elements[tag] = Element("SQ", b"", tuple(children))
            elif element.vr == "PN" and style.alphabetic_only:
                group = element.value.split(b"=", 1)[0]
                elements[tag] = Element("PN", group or element.value)
    return pack(root, step)


def requested_character_set(values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Give the character set a request names, in the standard's spelling; nothing when none or unknown."""
    if not any(value.strip(" \x00") for value in values):
        return None
    return canonical_dicom_terms(values)
