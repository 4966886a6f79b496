"""Person names: XPN, XCN and CN of HL7 to PN of DICOM (HL7 v2.5.1 2.A.89, 2.A.88; PS3.5 6.2.1).

HL7 writes suffix before prefix, DICOM prefix before suffix.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from broker.hl7.tokenizer import NULL, Segment, Separators

MAX_GROUP_CHARACTERS: Final = 64

# HL7 table 0200: the legal name first, then an untyped one, then display, birth and maiden names.
_TYPE_ORDER: Final = {"L": 0, "": 1, "D": 2, "B": 3, "M": 3}
_ALIASES: Final = frozenset({"A", "N", "S"})


def pn_group(family: str, given: str, middle: str, suffix: str, prefix: str, degree: str) -> str:
    """Write one component group of PN from the parts as HL7 orders them."""
    parts = [family, given, middle, prefix, f"{suffix} {degree}" if suffix and degree else suffix or degree]
    if not any(part for part in parts):
        return ""
    group = "^".join(_component(part) for part in parts).rstrip("^")
    return group[:MAX_GROUP_CHARACTERS].rstrip("^ ")


def _component(text: str) -> str:
    """Leave nothing in a component that PN would read as its own."""
    if text == NULL:
        return ""
    if text.isalnum():
        return text
    kept = "".join(
        " " if character in "^\r\n\t" else character
        for character in text
        if character not in "=\\" and (character >= " " or character in "\r\n\t")
    )
    return " ".join(kept.split())


def _family(segment: Segment, component: str) -> str:
    """Read FN: the surname, else its own and partner's parts put together."""
    parts = segment.subcomponents(component)
    return parts[0] or " ".join(part for part in parts[1:5] if part)


def _at(parts: Sequence[str], index: int) -> str:
    return parts[index] if index < len(parts) else ""


def _xpn_group(segment: Segment, repetition: str, first: int) -> str:
    """Write the group of an XPN (first=0) or XCN (first=1)."""
    return _group_of(repetition, first, segment.separators, segment.codec)


@lru_cache(maxsize=1024)
def _group_of(repetition: str, first: int, separators: Separators, codec: str) -> str:
    # Remembered: the same few physicians are named in most messages.
    segment = Segment.reader(separators, codec)
    parts = segment.components(repetition)
    plain = [segment.plain(_at(parts, first + place)) for place in range(1, 6)]
    return pn_group(_family(segment, _at(parts, first)), *plain)


def patient_name(segment: Segment, field: int) -> str:
    """Choose among the repetitions of an XPN field and write `alphabetic=ideographic=phonetic`."""
    groups = {"A": "", "I": "", "P": ""}
    ranks = {"A": 99, "I": 99, "P": 99}
    for repetition in segment.repetitions(field):
        parts = segment.components(repetition)
        kind = _at(parts, 6).strip().upper()
        if kind in _ALIASES:
            continue
        group = _xpn_group(segment, repetition, 0)
        if not group:
            continue
        script = _at(parts, 7).strip().upper()
        if script not in groups:
            script = "I" if _is_ideographic(group) else "A"
        rank = _TYPE_ORDER.get(kind, 4)
        if rank < ranks[script]:
            groups[script], ranks[script] = group, rank
    return "=".join((groups["A"], groups["I"], groups["P"])).rstrip("=")


def alias_names(segment: Segment, field: int) -> tuple[str, ...]:
    """List the names of an XPN field that are marked as aliases."""
    found: list[str] = []
    for repetition in segment.repetitions(field):
        parts = segment.components(repetition)
        if _at(parts, 6).strip().upper() in _ALIASES and (group := _xpn_group(segment, repetition, 0)):
            found.append(group)
    return tuple(found)


def physician_name(segment: Segment, field: int) -> str:
    """Write the first XCN (or CN) of a field; one that holds only an identifier has no name."""
    repetitions = segment.repetitions(field)
    return _xpn_group(segment, repetitions[0], 1) if repetitions else ""


def performer_name(segment: Segment, field: int) -> str:
    """Write the name inside the first component of an NDL field: OBR-32 to OBR-35."""
    repetitions = segment.repetitions(field)
    if not repetitions:
        return ""
    parts = segment.subcomponents(segment.components(repetitions[0])[0])
    return pn_group(*(_at(parts, place) for place in range(1, 7)))


def _is_ideographic(group: str) -> bool:
    """Tell whether a name is written in Han characters, kana or Hangul only."""
    if group.isascii():
        return False
    letters = [character for character in group if character.isalpha()]
    return bool(letters) and all(
        unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL"))
        for character in letters
    )
