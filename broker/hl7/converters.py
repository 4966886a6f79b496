"""The named converters of mapping files: one place of a message in, one value of an order out.

A converter answers nothing (`None`) where the place holds nothing it can use, and raises InvalidValue or
UnknownCode where it holds something wrong. It never repeats the value in its complaint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from decimal import Decimal, DecimalException
from functools import lru_cache
from typing import Final

from broker.domain.orders import AttributeValue, Code, EntityIdentifier, PatientIdentifier
from broker.domain.values import UID
from broker.errors import InvalidValue, UnknownCode
from broker.hl7 import names
from broker.hl7.groups import Group
from broker.hl7.instants import parse_stamp
from broker.hl7.tokenizer import NULL, Path, Segment, Separators

Remembered = dict[tuple[int, str], AttributeValue]
"""(place of a rule, its field as sent) -> value."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """Holds what converters need besides the place they read."""

    site_zone: tzinfo
    sender_zone: tzinfo | None = None
    codes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Table name -> code as sent, upper case -> our value."""
    remembered: Remembered = field(default_factory=dict, hash=False)
    """Values read before: the rooms, physicians and codes of a site are the same all day."""


@dataclass(frozen=True, slots=True)
class Target:
    """Says what an attribute can hold (PS3.5 6.2)."""

    keyword: str
    max_characters: int | None
    keeps_lines: bool


Converter = Callable[[Segment, Path, Group, Target, Conversion], AttributeValue | None]

MAX_CHARACTERS: Final = {
    "AE": 16,
    "CS": 16,
    "SH": 16,
    "LO": 64,
    "PN": 64,
    "ST": 1024,
    "LT": 10240,
    "DS": 16,
    "IS": 12,
}
KEEPS_LINES: Final = frozenset({"ST", "LT", "UT"})

_DROPPED: Final = {code: None for code in (*range(0x20), 0x7F) if code not in (0x09, 0x0A, 0x0D)}
_BASE32: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def clean(text: str, target: Target) -> str:
    """Write text as the attribute can hold it; too long is cut at a word."""
    if text == NULL:
        return ""
    if not text.isprintable():
        text = text.translate(_DROPPED)
        if target.keeps_lines:
            text = "\r\n".join(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
        else:
            text = " ".join(text.split())
    if "\\" in text and not target.keeps_lines:
        text = text.replace("\\", "/")  # a backslash separates values (PS3.5 6.4)
    text = text.strip()
    limit = target.max_characters
    if limit is not None and len(text) > limit:
        text = text[:limit]
        space = text.rfind(" ")
        text = text[:space] if space >= limit - 10 else text
        text = text.rstrip()
    return text


def _text(segment: Segment, path: Path, _group: Group, target: Target, _c: Conversion) -> str | None:
    return clean(segment.at(path), target) or None


def _texts(
    segment: Segment, path: Path, group: Group, target: Target, _c: Conversion
) -> tuple[str, ...] | None:
    """Collect every repetition of the field in every such segment of the group."""
    sent = (
        text
        for each in group.all(segment.name)
        for text in each.values(path.field, path.component, path.subcomponent)
    )
    found = [value for text in sent if (value := clean(text, target))]
    return tuple(dict.fromkeys(found)) or None


def _lines(segment: Segment, path: Path, group: Group, target: Target, _c: Conversion) -> str | None:
    sent = (text for each in group.all(segment.name) for text in each.values(path.field, path.component))
    texts = [text for text in sent if text and text != NULL]
    return clean("\n".join(texts), target) or None


def _identifier(segment: Segment, path: Path, _group: Group, target: Target, _c: Conversion) -> str | None:
    """Take an identifier whole: a shortened one belongs to somebody else."""
    value = _identifying(segment.at(path))
    if target.max_characters is not None and len(value) > target.max_characters:
        raise InvalidValue(f"is longer than the {target.max_characters} characters of {target.keyword}")
    return value or None


def _short_identifier(
    segment: Segment, path: Path, _group: Group, target: Target, _c: Conversion
) -> str | None:
    """Take an identifier, or stand a short one in for it that is always the same."""
    value = _identifying(segment.at(path))
    if target.max_characters is not None and len(value) > target.max_characters:
        return surrogate(value, target.max_characters)
    return value or None


def surrogate(value: str, characters: int) -> str:
    """Derive a short identifier from one that is too long for DICOM: `X` and Crockford base 32 of its hash."""
    number = int.from_bytes(hashlib.sha256(value.encode()).digest(), "big")
    digits = []
    for _ in range(characters - 1):
        number, digit = divmod(number, 32)
        digits.append(_BASE32[digit])
    return "X" + "".join(digits)


_LONGEST_IDENTIFIER: Final = 1024
"""Far beyond what any attribute holds: what is longer is refused, and need not be cleaned to the end."""


def _identifying(text: str) -> str:
    """Clean an identifier; the null value means that there is none."""
    if text == NULL:
        return ""
    if text.isalnum():
        return text
    text = text[:_LONGEST_IDENTIFIER]
    return (
        "".join(character for character in text if character >= " " and character != "\x7f")
        .replace("\\", "/")
        .strip()
    )


def _uid(segment: Segment, path: Path, _group: Group, _target: Target, _c: Conversion) -> str | None:
    value = segment.at(path).partition("^")[0].strip(" \x00")
    if not value or value == NULL:
        return None
    if not UID.is_valid(value):
        raise InvalidValue("is not a UID: digits and single dots, no leading zeros, at most 64 characters")
    return value


def _person_name(segment: Segment, path: Path, _group: Group, _target: Target, _c: Conversion) -> str | None:
    return names.patient_name(segment, path.field) or None


def _alias_names(
    segment: Segment, path: Path, _group: Group, _target: Target, _c: Conversion
) -> tuple[str, ...] | None:
    return names.alias_names(segment, path.field) or None


def _physician(segment: Segment, path: Path, _group: Group, _target: Target, _c: Conversion) -> str | None:
    return names.physician_name(segment, path.field) or None


def _performer(segment: Segment, path: Path, _group: Group, _target: Target, _c: Conversion) -> str | None:
    return names.performer_name(segment, path.field) or None


def _date(segment: Segment, path: Path, _group: Group, _target: Target, conversion: Conversion) -> str | None:
    text = segment.at(path).partition("^")[0]
    if not text or text == NULL:
        return None
    return parse_stamp(text, site=conversion.site_zone, sender=conversion.sender_zone).date or None


def _time(segment: Segment, path: Path, _group: Group, _target: Target, conversion: Conversion) -> str | None:
    text = segment.at(path).partition("^")[0]
    if not text or text == NULL:
        return None
    return parse_stamp(text, site=conversion.site_zone, sender=conversion.sender_zone).time or None


def _table(name: str, *, strict: bool) -> Converter:
    def convert(
        segment: Segment, path: Path, _group: Group, target: Target, conversion: Conversion
    ) -> str | None:
        sent = segment.at(path)
        if not sent or sent == NULL:
            return None
        code = sent.partition("^")[0].strip().upper()
        found = conversion.codes[name].get(code)
        if found is None and strict:
            raise UnknownCode(f"is not in the table `{name}` of the mapping")
        return (clean(found, target) or None) if found is not None else None

    return convert


def _code(
    segment: Segment, path: Path, _group: Group, _target: Target, _c: Conversion
) -> tuple[Code, ...] | None:
    """Read CE or CWE as a code item, from the component named (1, or 4 for the alternate triplet)."""
    repetitions = segment.repetitions(path.field)
    if len(repetitions) < path.repetition:
        return None
    repetition = repetitions[path.repetition - 1]
    return _code_of(repetition, max(path.component, 1) - 1, segment.separators, segment.codec)


@lru_cache(maxsize=1024)
def _code_of(repetition: str, first: int, separators: Separators, codec: str) -> tuple[Code, ...] | None:
    # Remembered: a site orders the same procedures all day.
    segment = Segment.reader(separators, codec)
    parts = segment.components(repetition)

    def at(index: int) -> str:
        text = segment.plain(parts[index]) if index < len(parts) else ""
        return "" if text == NULL else text

    value = _identifying(at(first))
    if not value:
        return None
    scheme = at(first + 2)
    scheme = _SCHEMES.get(scheme.upper(), scheme) or "99LOCAL"
    meaning = clean(at(first + 1), _MEANING) or value
    version = at(6 if first == 0 else 7) or None
    return (Code(value, scheme[:16], meaning, version),)


_MEANING: Final = Target("CodeMeaning", 64, keeps_lines=False)
_SCHEMES: Final = {
    "SNM": "SCT",
    "SNOMED": "SCT",
    "SNOMED-CT": "SCT",
    "CPT": "C4",
    "CPT4": "C4",
    "L": "99LOCAL",
    "LOINC": "LN",
}


def _location(segment: Segment, path: Path, _group: Group, target: Target, _c: Conversion) -> str | None:
    """Write PL as `point of care/room/bed`."""
    parts = segment.components(segment.field(path.field).partition("~")[0])[:3]
    plain = (segment.subcomponents(part)[0] for part in parts)
    return clean("/".join(part for part in plain if part and part != NULL), target) or None


def _address(segment: Segment, path: Path, _group: Group, target: Target, _c: Conversion) -> str | None:
    repetitions = segment.repetitions(path.field)
    if not repetitions:
        return None
    parts = [
        " ".join(filter(None, segment.subcomponents(part))) for part in segment.components(repetitions[0])[:6]
    ]
    return clean(", ".join(part for part in parts if part and part != NULL), target) or None


def _observed(unit_factors: Mapping[str, Decimal], least: Decimal, most: Decimal) -> Converter:
    def convert(segment: Segment, _path: Path, _group: Group, _target: Target, _c: Conversion) -> str | None:
        """Read OBX-5 in the unit of OBX-6; without a unit it is not used, a guess reaches the dose."""
        unit = segment.value(6, 1).lower()
        factor = unit_factors.get(unit)
        if factor is None:
            return None
        try:
            scaled = Decimal(segment.value(5, 1).replace(",", ".")) * factor
        except DecimalException:  # no number, or one with millions of digits
            return None
        if not scaled.is_finite() or not least < scaled <= most:
            return None
        return f"{scaled.quantize(Decimal('0.01')).normalize():f}"

    return convert


_KILOGRAMS: Final = {
    **dict.fromkeys(("kg", "kilogram", "kilograms"), Decimal(1)),
    **dict.fromkeys(("g", "gram", "grams"), Decimal("0.001")),
    **dict.fromkeys(("lb", "lbs", "[lb_av]", "pound", "pounds"), Decimal("0.45359237")),
}
_METRES: Final = {
    **dict.fromkeys(("m", "meter", "metre"), Decimal(1)),
    "cm": Decimal("0.01"),
    "mm": Decimal("0.001"),
    **dict.fromkeys(("in", "[in_i]", "inch", "inches"), Decimal("0.0254")),
}

_PREGNANT: Final = {
    "B6": "3",
    "POS": "3",
    "Y": "3",
    "YES": "3",
    "NEG": "1",
    "N": "1",
    "NO": "1",
    "POSSIBLE": "2",
    "UNK": "4",
    "U": "4",
}


def _pregnancy(segment: Segment, path: Path, _group: Group, _target: Target, _c: Conversion) -> str | None:
    """Read PV1-15 (table 0009) or an observation as (0010,21C0)."""
    field_number = 5 if segment.name == "OBX" else path.field
    for sent in segment.values(field_number, 1):
        found = _PREGNANT.get(sent.upper())
        if found is not None and (segment.name == "OBX" or found == "3"):
            return found
    return None


CONVERTERS: Final[Mapping[str, Converter]] = {
    "text": _text,
    "texts": _texts,
    "lines": _lines,
    "identifier": _identifier,
    "short_identifier": _short_identifier,
    "uid": _uid,
    "person_name": _person_name,
    "alias_names": _alias_names,
    "physician": _physician,
    "performer": _performer,
    "date": _date,
    "time": _time,
    "sex": _table("sexes", strict=False),
    "modality": _table("modalities", strict=True),
    "priority": _table("priorities", strict=False),
    "code": _code,
    "location": _location,
    "address": _address,
    "weight_kg": _observed(_KILOGRAMS, Decimal(0), Decimal(700)),
    "size_m": _observed(_METRES, Decimal(0), Decimal(3)),
    "pregnancy": _pregnancy,
}
"""Name in a mapping file -> converter. `date_time` is not here: it writes two attributes."""

LOOK_FURTHER: Final = frozenset({"texts", "lines", "weight_kg", "size_m", "pregnancy"})
"""Converters whose value depends on more than the field they are given."""

TAKE_AS_SENT: Final = frozenset({"text", "identifier", "short_identifier"})
"""Converters that take printable ASCII that is short enough as it was sent."""


# --- identifiers with their authority ---------------------------------------------------------------------


def entity_identifier(segment: Segment, path: Path) -> EntityIdentifier | None:
    """Read EI (HL7 v2.5.1 2.A.28)."""
    value = _identifying(segment.value(path.field, max(path.component, 1)))
    if not value:
        return None
    rest = (_identifying(segment.value(path.field, component)) or None for component in (2, 3, 4))
    return EntityIdentifier(value, *rest)


def patient_identifiers(
    segment: Segment, number: int, *, default_issuer: str | None
) -> list[PatientIdentifier]:
    """Read every CX of a field (HL7 v2.5.1 2.A.14), whole or not at all."""
    found: list[PatientIdentifier] = []
    for repetition in segment.repetitions(number):
        parts = [*segment.components(repetition), "", "", "", "", ""]
        value = _identifying(segment.plain(parts[0]))
        if not value:
            continue
        namespace, universal_id, kind = [*(_identifying(s) for s in segment.subcomponents(parts[3])), "", ""][
            :3
        ]
        found.append(
            PatientIdentifier(
                value,
                issuer=namespace or universal_id or default_issuer,
                universal_id=universal_id or None,
                universal_id_type=kind or None,
                type_code=_identifying(segment.plain(parts[4])) or None,
            )
        )
    return found
