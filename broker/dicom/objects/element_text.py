"""Writes the values of data elements as text, whatever their bytes: nothing here raises on what a peer sent."""

from __future__ import annotations

import struct
from typing import Final

from broker.dicom.objects.elements import decode

MAX_VALUES: Final = 256
"""Values kept of one attribute; a hostile list costs no more."""

_ENCODED: Final = frozenset({"SH", "LO", "PN", "UC", "LT", "ST", "UT"})
_SINGLE: Final = frozenset({"LT", "ST", "UT", "UR"})  # PS3.5 6.2: the backslash is a character of these
_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_TEXT: Final = _ENCODED | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
READABLE_VRS: Final = _TEXT | frozenset(_NUMBERS) | {"AT"}


def text_values(
    raw: bytes, vr: str, *, codecs: tuple[str, ...] = ("iso8859_1",), little_endian: bool = True
) -> tuple[str, ...]:
    """Answer the values of one element; () when it is empty. Padding, NULs and lone surrogates are dropped."""
    if not raw:
        return ()
    number = _NUMBERS.get(vr)
    if number is not None:
        return _numbers(raw, number, little_endian=little_endian)
    if vr == "AT":
        order = "<" if little_endian else ">"
        pairs = struct.iter_unpack(order + "HH", raw[: min(len(raw) // 4, MAX_VALUES) * 4])
        return tuple(f"{group:04X}{element:04X}" for group, element in pairs)
    text = raw.decode("ascii") if raw.isascii() and b"\x1b" not in raw else decode(raw, vr, codecs)
    if "\x00" in text:
        text = text.replace("\x00", "")
    if vr in _SINGLE:
        text = text.rstrip(" ")
        return (text,) if text else ()
    if "\\" not in text:
        text = text.strip()
        return (text,) if text else ()
    values = tuple(value.strip() for value in text.split("\\", MAX_VALUES)[:MAX_VALUES])
    return values if any(values) else ()


def _numbers(raw: bytes, code: str, *, little_endian: bool) -> tuple[str, ...]:
    size = struct.calcsize("<" + code)
    count = min(len(raw) // size, MAX_VALUES)
    values = struct.unpack(f"{'<' if little_endian else '>'}{count}{code}", raw[: count * size])
    if code == "f":
        return tuple(f"{value:.9g}" for value in values)
    return tuple(repr(value) for value in values)
