"""Splits a decoded message into segments, fields, repetitions, components: bounded, tolerant, linear.

HL7 v2.5.1 2.5 and 2.7. Nothing is split before somebody asks for it, so a message costs what is read of it.
Separators are those the message declares. Escapes are resolved after splitting, in the one value asked for.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from broker.errors import BrokerError, InvalidValue
from broker.hl7.charsets import SINGLE_BYTE_SWITCHES

NULL: Final = '""'
"""HL7 v2.5.1 2.5.3: delete what you have; unlike an absent value, which says nothing."""

MAX_FIELDS: Final = 512
_MAX_COMPONENTS: Final = 128
_MAX_MARKS: Final = 128
"""Combining marks behind one letter; Unicode's own bound for streams is 30 (UAX #15, 12)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds what a message may make us hold and read."""

    max_segments: int = 1000
    max_repetitions: int = 500
    max_field_characters: int = 64 * 1024


class NoHeaderError(BrokerError):
    """The message does not begin with an MSH segment."""

    hl7_condition = "100"


class MessageTooComplexError(BrokerError):
    """The message has more segments, repetitions or longer fields than this listener reads."""

    hl7_condition = "207"


@dataclass(frozen=True, slots=True)
class Separators:
    """Holds the separators one message declares in MSH-1 and MSH-2; an absent one is empty."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"


@dataclass(frozen=True, slots=True)
class Path:
    """Names one place in a segment: `PID-3`, `PID-3.4`, `PID-3[2].4.1`; counting starts at 1."""

    segment: str
    field: int
    repetition: int = 1
    component: int = 0
    subcomponent: int = 0

    def __str__(self) -> str:
        repetition = f"[{self.repetition}]" if self.repetition > 1 else ""
        component = f".{self.component}" if self.component else ""
        subcomponent = f".{self.subcomponent}" if self.subcomponent else ""
        return f"{self.segment}-{self.field}{repetition}{component}{subcomponent}"

    @classmethod
    def parse(cls, text: str) -> Path:
        """Read a path, or say what is wrong with it."""
        return _parse_path(text)


@lru_cache(maxsize=4096)
def _parse_path(text: str) -> Path:
    segment, dash, rest = text.partition("-")
    place, *below = rest.split(".")
    number, bracket, repetition = place.partition("[")
    try:
        path = Path(
            segment,
            int(number),
            int(repetition.removesuffix("]")) if bracket else 1,
            *(int(part) for part in below),
        )
    except (ValueError, TypeError):
        path = None
    if (
        path is None
        or not dash
        or len(segment) != 3
        or not (segment.isascii() and segment.isalnum() and segment == segment.upper())
        or not 1 <= path.field <= MAX_FIELDS
        or path.repetition < 1
        or any(int(part) < 1 for part in below)
        or bool(bracket) != repetition.endswith("]")
    ):
        raise InvalidValue("a field path looks like PID-3, PID-3.4 or PID-3[2].4.1")
    return path


class Segment:
    """Reads one segment; `occurrence` counts segments of its name in the message, from 1."""

    __slots__ = ("_codec", "_fields", "_limits", "_plain", "_separators", "name", "occurrence", "text")

    def __init__(
        self, text: str, occurrence: int, *, separators: Separators, limits: Limits, codec: str
    ) -> None:
        self.text = text
        self.name = text[:3]
        self.occurrence = occurrence
        self._separators = separators
        self._limits = limits
        self._codec = codec
        self._fields: list[str] | None = None
        self._plain: bool | None = None

    @property
    def separators(self) -> Separators:
        """Give the separators of the message."""
        return self._separators

    @property
    def codec(self) -> str:
        """Give the character set that reads hexadecimal escapes."""
        return self._codec

    @property
    def limits(self) -> Limits:
        """Give the bounds it is read in."""
        return self._limits

    @property
    def is_plain(self) -> bool:
        """Tell whether all of it is printable ASCII, no longer than one field may be, without escape or null."""
        if self._plain is None:
            text, escape = self.text, self._separators.escape
            self._plain = (
                text.isascii()
                and text.isprintable()
                and "\\" not in text
                and '"' not in text
                and (not escape or escape not in text)
                and len(text) <= self._limits.max_field_characters
            )
        return self._plain

    @property
    def fields(self) -> list[str]:
        """Give the fields as sent, by their numbers; the segment's name stands at 0."""
        return self._fields or self._split()

    def _split(self) -> list[str]:
        # A bounded split: a segment of eight million separators stays one string.
        self._fields = fields = self.text.split(self._separators.field, MAX_FIELDS)
        if self.name == "MSH":
            fields.insert(1, self._separators.field)
        return fields

    def field(self, number: int) -> str:
        """Give a whole field as sent, separators and escapes included; empty when absent."""
        fields = self._fields or self._split()
        if number >= len(fields) or number > MAX_FIELDS - 1:
            return ""
        value = fields[number]
        if len(value) > self._limits.max_field_characters:
            raise MessageTooComplexError(field=f"{self.name}-{number}")
        return value

    def repetitions(self, number: int) -> list[str]:
        """List the repetitions of a field as sent; an absent field has none."""
        value = self.field(number)
        if not value:
            return []
        separator = self._separators.repetition
        if not separator or separator not in value or (self.name == "MSH" and number <= 2):
            return [value]
        repetitions = value.split(separator, self._limits.max_repetitions)
        if len(repetitions) > self._limits.max_repetitions:
            raise MessageTooComplexError(field=f"{self.name}-{number}")
        return repetitions

    def components(self, repetition: str) -> list[str]:
        """Split one repetition as sent into its components as sent."""
        separator = self._separators.component
        return repetition.split(separator, _MAX_COMPONENTS) if separator else [repetition]

    def subcomponents(self, component: str) -> list[str]:
        """Split one component as sent into its subcomponents, escapes resolved."""
        separator = self._separators.subcomponent
        parts = component.split(separator, _MAX_COMPONENTS) if separator else [component]
        return [self.plain(part) for part in parts]

    def value(self, number: int, component: int = 0, subcomponent: int = 0, *, repetition: int = 1) -> str:
        """Give one value with its escapes resolved; empty when absent, `""` when the sender deletes it.

        Without a component the whole repetition is meant, and without a subcomponent the whole component:
        the separators below stay in it, because senders write them into plain text unescaped.
        """
        text = self.field(number)
        if not text or (self.name == "MSH" and number <= 2):
            return text
        separators = self._separators
        if separators.repetition and separators.repetition in text:
            repetitions = self.repetitions(number)
            if len(repetitions) < repetition:
                return ""
            text = repetitions[repetition - 1]
        elif repetition > 1:
            return ""
        if component:
            text = _part(text, separators.component, component)
            if subcomponent:
                text = _part(text, separators.subcomponent, subcomponent)
        return self.plain(text) if text else ""

    def values(self, number: int, component: int = 0, subcomponent: int = 0) -> list[str]:
        """List the value of every repetition, as `value` gives it, splitting the field once."""
        found: list[str] = []
        for text in self.repetitions(number):
            part = text
            if component:
                part = _part(part, self._separators.component, component)
                if subcomponent:
                    part = _part(part, self._separators.subcomponent, subcomponent)
            found.append(self.plain(part))
        return found

    def nulls(self, path: Path, sent: str) -> bool:
        """Tell whether the sender deletes the value a path names, in its field as sent (HL7 v2.5.1 2.5.3)."""
        if sent == NULL or not path.component:
            return sent == NULL
        escape = self._separators.escape
        # Without the characters it is made of, or an escape of them, the null value cannot be there.
        return (NULL in sent or (escape != "" and escape in sent)) and self.at(path) == NULL

    def at(self, path: Path) -> str:
        """Give the value a path names; the path's segment name is not looked at."""
        return self.value(path.field, path.component, path.subcomponent, repetition=path.repetition)

    def plain(self, text: str) -> str:
        """Resolve the escapes of one value and compose its characters (NFC)."""
        escape = self._separators.escape
        if escape and escape in text:
            text = _unescape(text, self._separators, self._codec)
        if not text.isascii():
            text = _composed(text)
        return text.strip(" ")

    @classmethod
    def reader(cls, separators: Separators, codec: str) -> Segment:
        """Give a segment without content, to read values by that stand elsewhere."""
        return cls("", 1, separators=separators, limits=Limits(), codec=codec)

    def __repr__(self) -> str:
        return f"<Segment {self.name} {self.occurrence}>"  # never the content: it is a patient's


def _composed(text: str) -> str:
    """Compose the characters of a text (NFC), unless it holds more marks in a row than any script writes.

    Python sorts the marks behind one letter in quadratic time: 64,000 of them would take seconds.
    """
    if len(text) > _MAX_MARKS:
        marks = 0
        for character in text:
            marks = marks + 1 if unicodedata.category(character)[0] == "M" else 0
            if marks > _MAX_MARKS:
                return text
    return unicodedata.normalize("NFC", text)


def _part(text: str, separator: str, number: int) -> str:
    if not separator or separator not in text:
        return text if number == 1 else ""
    parts = text.split(separator, min(number, _MAX_COMPONENTS))
    return parts[number - 1] if number <= len(parts) else ""


@dataclass(frozen=True, slots=True)
class Message:
    """Holds the segments of one message, in order."""

    segments: tuple[Segment, ...]
    separators: Separators

    @property
    def header(self) -> Segment:
        """Give MSH."""
        return self.segments[0]

    def all(self, name: str) -> list[Segment]:
        """List the segments of one name."""
        return [segment for segment in self.segments if segment.name == name]

    def first(self, name: str) -> Segment | None:
        """Give the first segment of one name, if there is one."""
        return next((segment for segment in self.segments if segment.name == name), None)

    def value(self, path: str) -> str:
        """Give the value a path names in the first segment of that name; empty when absent."""
        parsed = Path.parse(path)
        segment = self.first(parsed.segment)
        return "" if segment is None else segment.at(parsed)


def read_separators(text: str) -> Separators:
    """Read MSH-1 and MSH-2, or say that there is no header to read."""
    if len(text) < 4 or not text.startswith("MSH"):
        raise NoHeaderError
    field = text[3]
    declared = text[4:9].partition(field)[0].partition("\r")[0]
    # A fifth character is the truncation mark of HL7 v2.7; it separates nothing.
    characters = [field, *declared[:4]]
    # Only printable ASCII is the same in every character set, and so in our answer.
    if any(
        character.isalnum() or character == '"' or not "!" <= character <= "~" for character in characters
    ):
        raise NoHeaderError("MSH-1 and MSH-2 do not declare usable separators", field="MSH-2")
    if len(set(characters)) != len(characters):
        raise NoHeaderError("MSH-1 and MSH-2 declare one character twice", field="MSH-2")
    return Separators(*[*characters, "", "", "", ""][:5])


def tokenize(text: str, *, limits: Limits | None = None, codec: str = "utf_8") -> Message:
    """Split a message into segments; `codec` is its character set and reads hexadecimal escapes."""
    limits = limits or Limits()
    text = text.lstrip("\ufeff\r\n \x00")
    separators = read_separators(text)
    if "\n" in text:
        text = text.replace("\r\n", "\r").replace("\n", "\r")
    lines = text.split("\r", limits.max_segments + 1)
    if len(lines) > limits.max_segments + 1 or (
        len(lines) > limits.max_segments and lines[-1].strip(" \x00")
    ):
        raise MessageTooComplexError
    counts: dict[str, int] = {}
    segments: list[Segment] = []
    for line in lines:
        name = line[:3]
        if not name.strip(" \x00"):
            continue
        counts[name] = occurrence = counts.get(name, 0) + 1
        segments.append(Segment(line, occurrence, separators=separators, limits=limits, codec=codec))
    return Message(tuple(segments), separators)


# --- escapes ---------------------------------------------------------------------------------------------

_FORMATTING: Final = {
    ".br": "\n",
    ".sp": "\n",
    ".ce": "\n",
    ".in": "",
    ".ti": "",
    ".sk": " ",
    ".fi": "",
    ".nf": "",
}


def _unescape(text: str, separators: Separators, codec: str) -> str:
    """Resolve escapes (HL7 v2.5.1 2.7); what is no escape stays as it was written."""
    mark = separators.escape
    plain = {
        "F": separators.field,
        "S": separators.component,
        "T": separators.subcomponent,
        "R": separators.repetition,
        "E": mark,
        "H": "",
        "N": "",
    }
    out: list[str] = []
    octets = bytearray()  # of neighbouring \X..\ escapes: a character may be spread over several
    switched: str | None = None
    position = 0
    while True:
        start = text.find(mark, position)
        end = text.find(mark, start + 1) if start >= 0 else -1
        literal = text[position:] if end < 0 else text[position:start]
        if literal:
            _flush(octets, out, codec)
            out.append(literal if switched is None else _switch(literal, codec, switched))
        if end < 0:
            break
        sequence = text[start + 1 : end]
        position = end + 1
        if (character := plain.get(sequence)) is not None:
            _flush(octets, out, codec)
            out.append(character)
        elif sequence[:1] == "X" and (data := _hex(sequence[1:])) is not None:
            octets += data
        elif sequence[:3] in _FORMATTING and _is_count(sequence[3:]):
            _flush(octets, out, codec)
            out.append(_FORMATTING[sequence[:3]])
        elif sequence in SINGLE_BYTE_SWITCHES:
            switched = None if sequence == "C2842" else SINGLE_BYTE_SWITCHES[sequence]
        elif sequence[:1] == "Z" and sequence[1:].isalnum() and len(sequence) <= 8:
            continue  # locally defined: means something to the sender only
        else:
            # Not an escape: somebody wrote the escape character as it is ("C:\dose\"). Nothing is lost.
            _flush(octets, out, codec)
            out.append(mark)
            position = start + 1
    _flush(octets, out, codec)
    return "".join(out)


def _flush(octets: bytearray, out: list[str], codec: str) -> None:
    if not octets:
        return
    data = bytes(octets).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    octets.clear()
    try:
        out.append(data.decode(codec))
    except UnicodeDecodeError:
        out.append(data.decode("cp1252", errors="replace"))


def _hex(digits: str) -> bytes | None:
    try:
        return bytes.fromhex(digits) if digits and " " not in digits else None
    except ValueError:
        return None


def _is_count(text: str) -> bool:
    return text.lstrip("+-").isdigit() if text else True


def _switch(text: str, codec: str, to: str) -> str:
    """Read text again whose bytes were meant in another single-byte set."""
    try:
        return text.encode(codec).decode(to)
    except UnicodeError:
        return text


def with_occurrence(path: Path, segment: Segment) -> str:
    """Name a place in a repeated segment: `OBR[2]-18`."""
    if segment.occurrence == 1:
        return str(path)
    return str(replace(path, segment=f"{segment.name}[{segment.occurrence}]"))
