"""Character sets of DICOM as data: their terms, the codecs that read and write them, and plain spellings.

Defined terms: PS3.3 C.12.1.1.2.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CharacterSet:
    """Ties a codec to the terms of (0008,0005)."""

    codec: str
    """Python codec."""
    dicom: str | None
    """Defined term without code extensions; None where there is none."""
    dicom_extension: str | None = None
    """Defined term with code extensions (ISO 2022)."""


CHARACTER_SETS: tuple[CharacterSet, ...] = (
    CharacterSet("ascii", "ISO_IR 6", "ISO 2022 IR 6"),
    CharacterSet("iso8859_1", "ISO_IR 100", "ISO 2022 IR 100"),
    CharacterSet("iso8859_2", "ISO_IR 101", "ISO 2022 IR 101"),
    CharacterSet("iso8859_3", "ISO_IR 109", "ISO 2022 IR 109"),
    CharacterSet("iso8859_4", "ISO_IR 110", "ISO 2022 IR 110"),
    CharacterSet("iso8859_5", "ISO_IR 144", "ISO 2022 IR 144"),
    CharacterSet("iso8859_6", "ISO_IR 127", "ISO 2022 IR 127"),
    CharacterSet("iso8859_7", "ISO_IR 126", "ISO 2022 IR 126"),
    CharacterSet("iso8859_8", "ISO_IR 138", "ISO 2022 IR 138"),
    CharacterSet("iso8859_9", "ISO_IR 148", "ISO 2022 IR 148"),
    CharacterSet("iso8859_15", "ISO_IR 203", "ISO 2022 IR 203"),
    CharacterSet("tis_620", "ISO_IR 166", "ISO 2022 IR 166"),
    CharacterSet("shift_jis", "ISO_IR 13", "ISO 2022 IR 13"),
    CharacterSet("iso2022_jp", None, "ISO 2022 IR 87"),
    CharacterSet("iso2022_jp_2", None, "ISO 2022 IR 159"),
    CharacterSet("euc_kr", None, "ISO 2022 IR 149"),
    CharacterSet("gb2312", None, "ISO 2022 IR 58"),
    CharacterSet("gb18030", "GB18030", None),
    CharacterSet("gbk", "GBK"),
    CharacterSet("utf_8", "ISO_IR 192", None),
)


def _squeezed(term: str) -> str:
    """Bring a term to the form the tables are searched by: systems vary case, spaces, `_` and `-`."""
    return "".join(c for c in term.upper() if c not in " _-")


_BY_DICOM: dict[str, CharacterSet] = {}
for _set in CHARACTER_SETS:
    for _term in (_set.dicom, _set.dicom_extension):
        if _term:
            _BY_DICOM[_squeezed(_term)] = _set


def by_dicom_term(term: str) -> CharacterSet | None:
    """Find a character set by one value of (0008,0005); an empty value is the default repertoire."""
    return _BY_DICOM.get(_squeezed(term) or "ISOIR6")


def canonical_dicom_terms(values: Iterable[str]) -> tuple[str, ...] | None:
    """Write the values of (0008,0005) as the standard spells them; nothing when one is unknown.

    An empty first value stands for ISO 2022 IR 6 (PS3.3 C.12.1.1.2).
    """
    terms = [value.strip(" \x00") for value in values]
    canonical: list[str] = []
    for place, term in enumerate(terms):
        if not term:
            canonical.append("ISO_IR 6" if len(terms) == 1 else ("" if place == 0 else "ISO 2022 IR 6"))
            continue
        found = by_dicom_term(term)
        if found is None:
            return None
        if len(terms) > 1:
            extension = found.dicom_extension
            if extension is None:
                return None  # ISO_IR 192, GB18030 and GBK stand alone
            canonical.append(extension)
        else:
            canonical.append(found.dicom or found.dicom_extension or "")
    return tuple(canonical)


# --- transliteration -------------------------------------------------------------------------------------

_LATIN = {
    "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D",
    "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ł": "l", "Ł": "L", "ı": "i", "ħ": "h", "Ħ": "H", "ŋ": "n",
    "Ŋ": "N", "ŧ": "t", "Ŧ": "T", "ĸ": "k", "’": "'", "‘": "'", "“": '"', "”": '"', "„": '"', "–": "-",
    "—": "-", "‐": "-", "…": "...", "€": "EUR", "µ": "u", "°": "deg", "×": "x", "\u00a0": " ", "ʼ": "'",
    "ə": "a", "Ə": "A",
}  # fmt: skip
_UMLAUTS = {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"}
_CYRILLIC = {
    "а": "a", "б": "b", "в": "v", "г": "g", "д": "d", "е": "e", "ё": "e", "ж": "zh", "з": "z", "и": "i",
    "й": "i", "к": "k", "л": "l", "м": "m", "н": "n", "о": "o", "п": "p", "р": "r", "с": "s", "т": "t",
    "у": "u", "ф": "f", "х": "kh", "ц": "ts", "ч": "ch", "ш": "sh", "щ": "shch", "ъ": "ie", "ы": "y", "ь": "",
    "э": "e", "ю": "iu", "я": "ia", "є": "ie", "і": "i", "ї": "i", "ґ": "g", "ў": "u", "ђ": "d", "ј": "j",
    "љ": "lj", "њ": "nj", "ћ": "c", "џ": "dz", "ѓ": "g", "ќ": "k", "ѕ": "dz",
}  # fmt: skip
_GREEK = {
    "α": "a", "β": "v", "γ": "g", "δ": "d", "ε": "e", "ζ": "z", "η": "i", "θ": "th", "ι": "i", "κ": "k",
    "λ": "l", "μ": "m", "ν": "n", "ξ": "x", "ο": "o", "π": "p", "ρ": "r", "σ": "s", "ς": "s", "τ": "t",
    "υ": "y", "φ": "f", "χ": "ch", "ψ": "ps", "ω": "o",
}  # fmt: skip
# ICAO Doc 9303 part 3 for Cyrillic, ISO 843 type 2 for Greek: what passports and health cards print.
_TABLE: dict[str, str] = dict(_LATIN)
for _small, _latin in {**_CYRILLIC, **_GREEK}.items():
    _TABLE[_small] = _latin
    if _small.upper() != _small and len(_small.upper()) == 1:
        _TABLE[_small.upper()] = _latin[:1].upper() + _latin[1:]


def transliterate(text: str, codec: str, *, umlauts_as_two: bool = True) -> str:
    """Write a text with the characters a codec has; what has no equivalent is left out, never a `?`.

    `umlauts_as_two` writes ü as ue, else as u. Characters the codec has stay as they are.
    """
    written: list[str] = []
    for character in text:
        if _fits(character, codec):
            written.append(character)
            continue
        plain = _UMLAUTS.get(character) if umlauts_as_two else None
        if plain is None:
            plain = _TABLE.get(character)
        if plain is None:
            decomposed = unicodedata.normalize("NFKD", character)
            plain = "".join(_TABLE.get(c, c) for c in decomposed if not unicodedata.combining(c))
        written.append("".join(c for c in plain if _fits(c, codec)))
    return "".join(written)


def _fits(character: str, codec: str) -> bool:
    try:
        character.encode(codec)
    except UnicodeEncodeError:
        return False
    return True
