"""The values DICOM and HL7 exchange: each is valid, or it is not constructed (PS3.5 6.2)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import lru_cache
from typing import Self

from broker.errors import InvalidValue

MAX_AE_TITLE_CHARACTERS = 16
MAX_UID_CHARACTERS = 64
MAX_ACCESSION_NUMBER_CHARACTERS = 16
MAX_NAME_GROUP_CHARACTERS = 64
NAME_COMPONENTS = 5
NAME_GROUPS = 3

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PADDING = " \x00\t\r\n"


def _trimmed(value: str) -> str:
    """Drop the padding that fixed-width senders leave around a value."""
    return value.strip(_PADDING)


@dataclass(frozen=True, slots=True, order=True)
class AETitle:
    """Names an application entity: 1 to 16 printable characters, no backslash (PS3.5 6.2, AE)."""

    value: str

    def __post_init__(self) -> None:
        """Refuse what no peer could send back unchanged."""
        value = _trimmed(self.value)
        if not value or len(value) > MAX_AE_TITLE_CHARACTERS:
            raise InvalidValue(f"an AE title has 1 to {MAX_AE_TITLE_CHARACTERS} characters")
        if "\\" in value or not value.isascii() or _CONTROL.search(value):
            raise InvalidValue("an AE title has printable ASCII characters and no backslash")
        object.__setattr__(self, "value", value)

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class UID:
    """Identifies something world-wide: dotted decimal components, at most 64 characters (PS3.5 9.1)."""

    value: str

    def __post_init__(self) -> None:
        """Refuse everything but dotted decimals: a UID must never be able to name a path."""
        value = _trimmed(self.value)
        if len(value) > MAX_UID_CHARACTERS or not _UID.match(value):
            raise InvalidValue("a UID has dotted decimal components and at most 64 characters")
        object.__setattr__(self, "value", value)

    @staticmethod
    def is_valid(value: str) -> bool:
        """Tell whether a text is a UID without paying for an exception."""
        return len(value) <= MAX_UID_CHARACTERS and _UID.match(value) is not None

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class AccessionNumber:
    """Identifies an imaging service request: 1 to 16 characters, never cut (PS3.5 6.2, SH)."""

    value: str

    def __post_init__(self) -> None:
        """Refuse rather than cut: a shortened number belongs to somebody else."""
        value = _trimmed(self.value)
        if not value or len(value) > MAX_ACCESSION_NUMBER_CHARACTERS:
            raise InvalidValue(f"an accession number has 1 to {MAX_ACCESSION_NUMBER_CHARACTERS} characters")
        if "\\" in value or _CONTROL.search(value):
            raise InvalidValue("an accession number has no backslash and no control characters")
        object.__setattr__(self, "value", value)

    def __str__(self) -> str:
        return self.value


@lru_cache(maxsize=8192)
def fold_name(text: str) -> str:
    """Bring a name group to the form in which names are compared: no case, no accents, single spaces.

    PS3.4 C.2.2.2.1 leaves case and accents of PN to the implementation. Components keep their places and
    trailing empty ones are dropped, so `Müller^ Eva^^` and `MULLER^EVA` are the same name.
    """
    text = _without_marks(text)
    components = [" ".join(part.split()) for part in text.upper().replace("\x00", " ").split("^")]
    # Upper-casing may itself decompose (U+01F0): fold marks once more so that folding is idempotent.
    return _without_marks("^".join(components).rstrip("^"))


def _without_marks(text: str) -> str:
    if text.isascii():
        return text
    # One by one: marks are dropped, so their order is of no interest, and a peer that sends a hundred
    # thousand of them in a row would have Python sort them in quadratic time.
    return "".join(
        part
        for character in text
        for part in unicodedata.normalize("NFKD", character)
        if not unicodedata.combining(part)
    )


@dataclass(frozen=True, slots=True)
class PersonName:
    """Names a person in up to three scripts: alphabetic, ideographic, phonetic (PS3.5 6.2.1).

    Each group is `family^given^middle^prefix^suffix`.
    """

    alphabetic: str
    ideographic: str = ""
    phonetic: str = ""

    def __post_init__(self) -> None:
        """Refuse names that cannot be written as PN, and drop empty tails."""
        for field in ("alphabetic", "ideographic", "phonetic"):
            group = _trimmed(getattr(self, field))
            if len(group) > MAX_NAME_GROUP_CHARACTERS:
                raise InvalidValue(f"a name group has at most {MAX_NAME_GROUP_CHARACTERS} characters")
            if "=" in group or "\\" in group or _CONTROL.search(group):
                raise InvalidValue("a name group has no '=', no backslash and no control characters")
            components = [component.strip() for component in group.split("^")]
            if len(components) > NAME_COMPONENTS:
                raise InvalidValue(f"a name group has at most {NAME_COMPONENTS} components")
            object.__setattr__(self, field, "^".join(components).rstrip("^"))
        if not (self.alphabetic or self.ideographic or self.phonetic):
            raise InvalidValue("a person name is not empty")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the DICOM form `alphabetic=ideographic=phonetic`."""
        groups = text.split("=")
        if len(groups) > NAME_GROUPS:
            raise InvalidValue(f"a person name has at most {NAME_GROUPS} groups")
        return cls(*groups)

    @property
    def groups(self) -> tuple[str, ...]:
        """List the groups in DICOM order, without the empty tail."""
        groups = [self.alphabetic, self.ideographic, self.phonetic]
        while groups and not groups[-1]:
            groups.pop()
        return tuple(groups)

    @property
    def family(self) -> str:
        """Give the family name of the first group that has one."""
        return (self.alphabetic or self.ideographic or self.phonetic).split("^", 1)[0]

    @property
    def given(self) -> str:
        """Give the given name of the first group that has one, or nothing."""
        _, _, rest = (self.alphabetic or self.ideographic or self.phonetic).partition("^")
        return rest.split("^", 1)[0]

    @property
    def folded(self) -> tuple[str, ...]:
        """List the non-empty groups in the form in which names are compared."""
        return tuple(fold_name(group) for group in self.groups if group)

    def is_same_as(self, other: PersonName) -> bool:
        """Tell whether two names agree in family and given name in any script."""
        mine = {tuple(group.split("^")[:2]) for group in self.folded}
        return any(tuple(group.split("^")[:2]) in mine for group in other.folded)

    def __str__(self) -> str:
        return "=".join(self.groups)


# --- dates and times -------------------------------------------------------------------------------------

_SEPARATED = re.compile(r"(\d{4})([-./])(\d{2})\2(\d{2})")
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})(?:T?[\d.:]*(?:[+-]\d{4})?)?\Z")
_DATE_RANGE = re.compile(r"(?:(\d{8})\d{0,6}(?:\.\d{1,6})?)?\s*-\s*(?:(\d{8})\d{0,6}(?:\.\d{1,6})?)?\Z")
_TIME = re.compile(r"(?P<h>\d{2})(?::?(?P<m>\d{2})(?::?(?P<s>\d{2})(?:\.(?P<f>\d{1,6}))?)?)?\Z")
_OPEN_START, _OPEN_END = "00000000", "99999999"

DAY_START = time(0, 0, 0)
DAY_END = time(23, 59, 59, 999_999)


@lru_cache(maxsize=4096)
def parse_date(text: str) -> date | None:
    """Read a DA value, also with separators or with a time behind it; nothing when it is not a date."""
    match = _DATE.match(_SEPARATED.sub(r"\1\3\4", _trimmed(text)))
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def parse_time(text: str) -> TimeRange | None:
    """Read a TM value as the span its precision covers: `0930` is 09:30:00 to 09:30:59.999999."""
    match = _TIME.match(_trimmed(text))
    if match is None:
        return None
    hour, minute, second, fraction = match["h"], match["m"], match["s"], match["f"]
    if hour == "24" and not int((minute or "0") + (second or "0") + (fraction or "0")):
        return TimeRange(DAY_END, DAY_END)
    try:
        # PS3.5 6.2: 60 is allowed for leap seconds; Python has none.
        low_s, high_s = (0, 59) if second is None else (min(int(second), 59),) * 2
        if second is not None and int(second) > 60:
            return None
        low_us, high_us = 0, 999_999
        if fraction is not None:
            low_us, high_us = int(fraction.ljust(6, "0")), int(fraction.ljust(6, "9"))
        return TimeRange(
            time(int(hour), int(minute or 0), low_s, low_us),
            time(int(hour), int(minute or 59), high_s, high_us),
        )
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class DateRange:
    """Spans days, both ends included; an open end is None (PS3.4 C.2.2.2.5)."""

    first: date | None
    last: date | None

    @classmethod
    def parse(cls, text: str) -> DateRange | None:
        """Read `d`, `d1-d2`, `d1-`, `-d2` leniently; nothing when it is none of them."""
        text = _SEPARATED.sub(r"\1\3\4", _trimmed(text))
        match = _DATE_RANGE.match(text)
        if match is None:
            single = parse_date(text)
            return None if single is None else cls(single, single)
        first_text, last_text = match[1] or "", match[2] or ""
        first = parse_date(first_text) if first_text and first_text != _OPEN_START else None
        last = parse_date(last_text) if last_text and last_text != _OPEN_END else None
        if first is None and first_text not in ("", _OPEN_START):
            return None
        if last is None and last_text not in ("", _OPEN_END):
            return None
        return cls(first, last)

    @property
    def is_single(self) -> bool:
        """Tell whether the range is one day."""
        return self.first is not None and self.first == self.last

    @property
    def is_universal(self) -> bool:
        """Tell whether the range leaves no day out."""
        return self.first is None and self.last is None

    @property
    def is_empty(self) -> bool:
        """Tell whether the range ends before it begins."""
        return self.first is not None and self.last is not None and self.first > self.last

    def contains(self, day: date) -> bool:
        """Tell whether a day lies in the range."""
        return (self.first is None or self.first <= day) and (self.last is None or day <= self.last)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Spans times of one day, both ends included to their precision; an open end is None."""

    first: time | None
    last: time | None
    is_single: bool = True

    @classmethod
    def parse(cls, text: str) -> TimeRange | None:
        """Read `t`, `t1-t2`, `t1-`, `-t2` leniently; nothing when it is none of them."""
        text = _trimmed(text)
        head, dash, tail = text.partition("-")
        if not dash:
            return parse_time(text)
        first = parse_time(head) if head.strip() else None
        last = parse_time(tail) if tail.strip() else None
        if (first is None and head.strip()) or (last is None and tail.strip()):
            return None
        return cls(first.first if first else None, last.last if last else None, is_single=False)

    @property
    def is_universal(self) -> bool:
        """Tell whether the range is the whole day, as `000000-235959` is."""
        whole_start = self.first is None or self.first == DAY_START
        whole_end = self.last is None or self.last >= time(23, 59, 59)
        return whole_start and whole_end

    @property
    def is_empty(self) -> bool:
        """Tell whether the range ends before it begins."""
        return self.first is not None and self.last is not None and self.first > self.last

    def contains(self, moment: time) -> bool:
        """Tell whether a time of day lies in the range."""
        return (self.first is None or self.first <= moment) and (self.last is None or moment <= self.last)


def date_text(day: date) -> str:
    """Write a day as DA."""
    return f"{day.year:04d}{day.month:02d}{day.day:02d}"


def time_text(moment: time | datetime) -> str:
    """Write a time of day as TM, with a fraction only where there is one."""
    text = f"{moment.hour:02d}{moment.minute:02d}{moment.second:02d}"
    return f"{text}.{moment.microsecond:06d}" if moment.microsecond else text
