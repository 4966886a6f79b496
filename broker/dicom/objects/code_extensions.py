"""Writes text in several character sets with ISO 2022 escape sequences (PS3.5 6.1.2.5, PS3.3 C.12.1.1.2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Set:
    """Describes one set: how to switch to it, and how a character is written in it."""

    escape: bytes
    codec: str
    is_g0: bool = False
    """It takes the place of ASCII while it is in use."""
    skip: int = 0
    """Bytes of escape sequence the codec puts in front of a single character."""


_SETS = {
    "ISO 2022 IR 100": _Set(b"\x1b-A", "iso8859_1"),
    "ISO 2022 IR 101": _Set(b"\x1b-B", "iso8859_2"),
    "ISO 2022 IR 109": _Set(b"\x1b-C", "iso8859_3"),
    "ISO 2022 IR 110": _Set(b"\x1b-D", "iso8859_4"),
    "ISO 2022 IR 144": _Set(b"\x1b-L", "iso8859_5"),
    "ISO 2022 IR 127": _Set(b"\x1b-G", "iso8859_6"),
    "ISO 2022 IR 126": _Set(b"\x1b-F", "iso8859_7"),
    "ISO 2022 IR 138": _Set(b"\x1b-H", "iso8859_8"),
    "ISO 2022 IR 148": _Set(b"\x1b-M", "iso8859_9"),
    "ISO 2022 IR 203": _Set(b"\x1b-b", "iso8859_15"),
    "ISO 2022 IR 166": _Set(b"\x1b-T", "tis_620"),
    "ISO 2022 IR 13": _Set(b"\x1b)I", "shift_jis"),
    "ISO 2022 IR 149": _Set(b"\x1b$)C", "euc_kr"),
    "ISO 2022 IR 58": _Set(b"\x1b$)A", "gb2312"),
    "ISO 2022 IR 87": _Set(b"\x1b$B", "iso2022_jp", is_g0=True, skip=3),
    "ISO 2022 IR 159": _Set(b"\x1b$(D", "iso2022_jp_2", is_g0=True, skip=4),
}
_MULTI_BYTE = frozenset({"euc_kr", "gb2312"})


def encode_extended(text: str, terms: tuple[str, ...], *, delimiters: str) -> bytes | None:
    """Encode a text; nothing when a character is in none of the sets.

    Every run between delimiters starts with the first set in use, as a reader assumes (PS3.5 6.1.2.5.3).
    """
    sets = [_SETS[term] for term in terms if term in _SETS]
    first = _SETS.get(terms[0]) if terms else None
    to_ascii = b"\x1b(J" if terms and terms[0] == "ISO 2022 IR 13" else b"\x1b(B"
    written = bytearray()
    g0: _Set | None = None
    g1 = first
    for character in text:
        if character in delimiters or character < "\x80":
            if g0 is not None:
                written += to_ascii
                g0 = None
            written += character.encode("ascii")
            if character in delimiters:
                g1 = first
            continue
        found = next(((s, b) for s in sets if (b := _bytes_in(s, character)) is not None), None)
        if found is None:
            return None
        chosen, encoded = found
        if chosen.is_g0:
            if g0 is not chosen:
                written += chosen.escape
                g0 = chosen
        else:
            if g1 is not chosen:
                written += chosen.escape
                g1 = chosen
            if g0 is not None and chosen.codec not in _MULTI_BYTE:
                written += to_ascii
                g0 = None
        written += encoded
    if g0 is not None:
        written += to_ascii
    return bytes(written)


def _bytes_in(extension: _Set, character: str) -> bytes | None:
    try:
        encoded = character.encode(extension.codec)
    except UnicodeEncodeError:
        return None
    if extension.is_g0:
        # iso2022_jp_2 also reaches other sets; only its own escape sequence counts here.
        if not encoded.startswith(extension.escape):
            return None
        return encoded[extension.skip : extension.skip + 2]
    if extension.codec == "shift_jis" and len(encoded) != 1:
        return None  # JIS X 0201 only; the rest of Shift-JIS is not in ISO_IR 13
    return encoded
