"""HL7 time stamps: how precise they are, in which zone they were meant, and what DICOM makes of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from broker.errors import InvalidValue

_STAMP = re.compile(
    r"(?P<year>\d{4})(?:(?P<month>\d\d)(?:(?P<day>\d\d)(?:(?P<hour>\d\d)(?:(?P<minute>\d\d)"
    r"(?:(?P<second>\d\d)(?:\.(?P<fraction>\d{1,6}))?)?)?)?)?)?(?P<zone>[+-]\d{4})?\Z"
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Holds one time stamp of a message, in the site's zone."""

    at: datetime
    has_day: bool
    has_time: bool

    @property
    def date(self) -> str:
        """Give DA; empty when the stamp names no day: a birth date is never padded with 0101."""
        return f"{self.at.year:04}{self.at.month:02}{self.at.day:02}" if self.has_day else ""

    @property
    def time(self) -> str:
        """Give TM; empty when the stamp names no time of day."""
        return f"{self.at.hour:02}{self.at.minute:02}{self.at.second:02}" if self.has_time else ""

    @property
    def instant(self) -> datetime:
        """Give the instant in UTC."""
        return self.at.astimezone(UTC)


def zone_of(text: str) -> tzinfo | None:
    """Read the zone at the end of a time stamp."""
    match = _STAMP.match(text)
    if match is None or match["zone"] is None:
        return None
    sign, digits = match["zone"][0], match["zone"][1:]
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    if offset >= timedelta(hours=15):
        return None
    return timezone(-offset if sign == "-" else offset)


@lru_cache(maxsize=1024)
def parse_stamp(text: str, *, site: tzinfo, sender: tzinfo | None = None) -> Stamp:
    """Read a time stamp (HL7 v2.5.1 2.A.75); without a zone it is meant in the sender's, else the site's."""
    # Remembered: one message repeats the same few times, and so do the messages of one minute.
    match = _STAMP.match(text)
    if match is None:
        raise InvalidValue("is not a date and time")
    try:
        at = datetime(
            int(match["year"]),
            int(match["month"] or 1),
            int(match["day"] or 1),
            int(match["hour"] or 0),
            int(match["minute"] or 0),
            min(int(match["second"] or 0), 59),
            int((match["fraction"] or "0").ljust(6, "0")),
            tzinfo=site,
        )
        has_time = match["hour"] is not None
        if has_time and (zone := zone_of(text) or sender) is not None:
            at = at.replace(tzinfo=zone).astimezone(site)
    except (ValueError, OverflowError) as error:
        raise InvalidValue("is not a date and time that exists") from error
    return Stamp(at, match["day"] is not None, has_time)
