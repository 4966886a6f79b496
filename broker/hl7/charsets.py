"""Which characters a message means: what MSH-18 says (HL7 table 0211), and what its bytes prove.

A message is decoded whole before it is split, because trail bytes of GB 18030, Shift-JIS and Big5 can look
like separators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.errors import BrokerError


class CharsetNotTransportableError(BrokerError):
    """The declared character set cannot be sent in MLLP blocks."""


@dataclass(frozen=True, slots=True)
class Charset:
    """Joins the HL7 term of a character set to its Python codec."""

    term: str
    codec: str


ASCII: Final = Charset("ASCII", "ascii")
LATIN_1: Final = Charset("8859/1", "iso8859_1")
UTF_8: Final = Charset("UNICODE UTF-8", "utf_8")
WINDOWS: Final = Charset("8859/1", "cp1252")
JAPANESE: Final = Charset("ISO IR87", "iso2022_jp_ext")
"""Reads every Japanese set of table 0211, whichever of them a text switches to."""

_TABLE_0211: Final = (
    ASCII,
    LATIN_1,
    *(Charset(f"8859/{n}", f"iso8859_{n}") for n in (2, 3, 4, 5, 6, 7, 8, 9, 15)),
    Charset("ISO IR14", "shift_jis"),
    JAPANESE,
    Charset("ISO IR159", JAPANESE.codec),
    Charset("KS X 1001", "euc_kr"),
    Charset("GB 18030-2000", "gb18030"),
    Charset("BIG-5", "big5hkscs"),
    # A Taiwanese set. Some archives read this term as Thai: a site with such a sender overrides its set.
    Charset("CNS 11643-1992", "cp950"),
    UTF_8,
    # Not in the table, seen in messages:
    Charset("TIS-620", "tis_620"),
    *(Charset(f"WINDOWS-125{n}", f"cp125{n}") for n in range(9)),
)


def _squeezed(term: str) -> str:
    return "".join(character for character in term.upper() if character.isalnum())


_BY_TERM: Final = {_squeezed(charset.term): charset for charset in _TABLE_0211} | {
    "ISOIR6": ASCII,
    "USASCII": ASCII,
    "UNICODE": UTF_8,
    "UTF8": UTF_8,
    "GB18030": Charset("GB 18030-2000", "gb18030"),
    "SHIFTJIS": Charset("ISO IR14", "shift_jis"),
    **{f"ISO8859{n}": Charset(f"8859/{n}", f"iso8859_{n}") for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    **{f"CP125{n}": Charset(f"WINDOWS-125{n}", f"cp125{n}") for n in range(9)},
}

_NOT_TRANSPORTABLE: Final = frozenset(
    f"{prefix}{width}{order}"
    for prefix in ("UNICODEUTF", "UTF", "UCS")
    for width in ("16", "32", "2", "4")
    for order in ("", "LE", "BE")
)

# HL7 v2.5.1 2.7.2: multi-byte switches written as escapes are the ISO 2022 sequences the codec knows.
_ISO_2022_ESCAPES: Final = (
    (b"\\M2442\\", b"\x1b$B"),
    (b"\\M242844\\", b"\x1b$(D"),
    (b"\\C2842\\", b"\x1b(B"),
    (b"\\C284A\\", b"\x1b(J"),
    (b"\\C2949\\", b"\x1b(I"),
)

SINGLE_BYTE_SWITCHES: Final = {
    "C2842": "ascii",
    "C284A": "shift_jis",
    "C2949": "shift_jis",
    "C2D41": "iso8859_1",
    "C2D42": "iso8859_2",
    "C2D43": "iso8859_3",
    "C2D44": "iso8859_4",
    "C2D4C": "iso8859_5",
    "C2D47": "iso8859_6",
    "C2D46": "iso8859_7",
    "C2D48": "iso8859_8",
    "C2D4D": "iso8859_9",
}
"""Single-byte switches (HL7 v2.5.1 2.7.2); the tokenizer applies them inside one value."""


@dataclass(frozen=True, slots=True)
class DecodedText:
    """Holds a message as Unicode, with the set it was read in and whether that was a guess."""

    text: str
    charset: Charset
    suspect: bool = False


def charset_named(term: str) -> Charset | None:
    """Find a character set by its HL7 term or by the name people use for it, however it is spelled."""
    return _BY_TERM.get(_squeezed(term))


def decode(
    raw: bytes,
    declared: str,
    *,
    default: Charset = LATIN_1,
    override: Charset | None = None,
) -> DecodedText:
    """Decode a whole message; a bad byte never loses an order, it makes the text suspect.

    `declared` is MSH-18 as sent, repetitions included.
    """
    if raw.startswith(b"\xef\xbb\xbf"):
        raw = raw[3:]
        declared = declared or UTF_8.term
    names = [name.strip() for name in declared.split("~")]
    if any(_squeezed(name) in _NOT_TRANSPORTABLE for name in names):
        raise CharsetNotTransportableError(field="MSH-18")
    first = charset_named(names[0]) if names[0] else None
    if raw.isascii() and b"\x1b" not in raw and b"\\M" not in raw:
        return DecodedText(raw.decode("ascii"), override or first or default)
    if override is not None:
        return _strictly(raw, override) or _guess(raw, override)
    extended = _extended(raw, names)
    if extended is not None:
        return extended
    charset = first or default
    if charset in (ASCII, LATIN_1):
        # Latin-1 reads anything without complaint, so what is valid UTF-8 is believed to be UTF-8.
        as_utf_8 = _strictly(raw, UTF_8)
        if as_utf_8 is not None:
            return DecodedText(as_utf_8.text, UTF_8, suspect=True)
        if charset is LATIN_1 and not _has_c1(raw):
            return DecodedText(raw.decode("iso8859_1"), LATIN_1)
        return _guess(raw, charset)
    plain = _strictly(raw, charset)
    if plain is None:
        return _guess(raw, charset)
    return DecodedText(plain.text, charset, suspect=bool(names[0]) and first is None)


def _extended(raw: bytes, names: list[str]) -> DecodedText | None:
    """Decode text that switches between sets (ISO 2022), if the message declares the sets it switches to."""
    declared = [charset for name in names if (charset := charset_named(name)) is not None]
    korean = next((charset for charset in declared if charset.codec == "euc_kr"), None)
    if korean is not None:
        return _strictly(raw.replace(b"\x1b$)C", b""), korean)
    if not any(charset.codec == JAPANESE.codec for charset in declared):
        return None
    for written, sequence in _ISO_2022_ESCAPES:
        raw = raw.replace(written, sequence)
    return _strictly(raw, JAPANESE)


def _strictly(raw: bytes, charset: Charset) -> DecodedText | None:
    try:
        return DecodedText(raw.decode(charset.codec), charset)
    except UnicodeDecodeError:
        return None


def _guess(raw: bytes, declared: Charset) -> DecodedText:
    """Read bytes the declared set does not allow: as UTF-8, as Windows text, then with replacement marks."""
    for charset in (UTF_8, WINDOWS):
        decoded = _strictly(raw, charset)
        if decoded is not None:
            return DecodedText(decoded.text, charset, suspect=True)
    return DecodedText(raw.decode(declared.codec, errors="replace"), declared, suspect=True)


_NOT_C1: Final = bytes(byte for byte in range(256) if not 0x80 <= byte <= 0x9F)


def _has_c1(raw: bytes) -> bool:
    """Tell whether bytes 80 to 9F occur: control codes in Latin-1, quotes and dashes in Windows text."""
    return bool(raw.translate(None, _NOT_C1))
