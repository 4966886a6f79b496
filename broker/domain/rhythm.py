"""How often somebody usually talks at an hour of the week, and whether a silence is out of the ordinary.

What is counted are minutes in which something was heard, not messages: three hundred images of one exam are two or
three minutes of talk, and nobody is silent because the next exam takes its time. Of each hour of the week the median
over the last weeks counts, so that neither one wild day nor one public holiday changes what is usual.

A silence is weighed by how many such minutes would usually have come in it, hour by hour, through nights and weekends
in which nothing is usual. Were they spread by chance, a silence in which eight would have come is once in three
thousand; somebody who usually talks every four minutes is silent after half an hour.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import Enum
from statistics import median

from broker.domain.wording import words

HOUR = timedelta(hours=1)
HISTORY = timedelta(weeks=5)
"""Older hours say nothing: rhythms change with the seasons and the staff."""
FEWEST_SAMPLES = 3
"""Fewer hours of one sort are no rhythm: nothing is said and nothing alarms."""
QUIET_AT = 4.0
SILENT_AT = 8.0
SHORTEST_SILENCE = timedelta(minutes=5)
HOURS_OF_WEEK = 168
_FRIDAY = 4
_ALWAYS_TALKING = 45
"""So many minutes of an hour: from here on the messages themselves tell the gap."""
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Silence(Enum):
    """What a silence means."""

    NORMAL = "normal"
    QUIET = "quiet"
    """Longer than usual, as happens now and then."""
    SILENT = "silent"
    """Out of the ordinary: somebody should look."""
    UNKNOWN = "unknown"
    """Too little is known of this hour; this never alarms."""


@dataclass(frozen=True, slots=True)
class HeardHour:
    """What was heard of one source in one hour."""

    hour: datetime
    items: int
    minutes: int
    """Minutes of the hour in which something was heard."""


@dataclass(frozen=True, slots=True)
class UsualHour:
    """What is usual in one hour of the week."""

    items: float
    minutes: float

    @property
    def gap(self) -> timedelta | None:
        """Answer the usual time between two signs of life; None where none is usual."""
        if self.minutes < 0.5:
            return None
        if self.minutes >= _ALWAYS_TALKING:
            return HOUR / max(self.items, self.minutes)
        return HOUR / self.minutes


@dataclass(frozen=True, slots=True)
class Judgement:
    """A silence and what it means."""

    silence: Silence
    usual_gap: timedelta | None
    """At this hour; None where nothing is usual or nothing is known."""
    reason: str


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What is usual in each hour of the week, Monday 0:00 first; None where too little is known."""

    hours: tuple[UsualHour | None, ...]

    def judge(self, last_at: datetime, *, now: datetime, zone: tzinfo) -> Judgement:
        """Weigh the silence since `last_at`."""
        local = now.astimezone(zone)
        usual = self.hours[hour_of_week(local)]
        at_this_hour = f"at this hour on a {_DAYS[local.weekday()]}"
        if usual is None:
            return Judgement(Silence.UNKNOWN, None, f"too little is known of what is usual {at_this_hour}")
        gap = usual.gap
        says = f"usually every {words(gap)} {at_this_hour}" if gap else f"usually nothing {at_this_hour}"
        span = max(now - last_at, timedelta(0))
        missed = self.missed(last_at.astimezone(zone), span)
        if gap is not None and span >= SHORTEST_SILENCE and missed >= QUIET_AT:
            silence = Silence.SILENT if missed >= SILENT_AT else Silence.QUIET
            return Judgement(silence, gap, f"{silence.value} for {words(span)}, {says}")
        return Judgement(Silence.NORMAL, gap, says)

    def missed(self, since: datetime, span: timedelta) -> float:
        """Answer how many minutes of talk would usually have come in a span that begins at a local time."""
        left = min(span, timedelta(days=7)) / HOUR
        hour = hour_of_week(since)
        part = 1 - (since.minute * 60 + since.second) / 3600
        missed = 0.0
        while left > 0 and missed < SILENT_AT:
            usual = self.hours[hour]
            missed += (usual.minutes if usual else 0.0) * min(part, left)
            left -= part
            part = 1.0
            hour = (hour + 1) % HOURS_OF_WEEK
        return missed


NOTHING_KNOWN = Rhythm((None,) * HOURS_OF_WEEK)


def hour_of_week(local: datetime) -> int:
    """Answer 0 for Monday's first hour, 167 for Sunday's last."""
    return local.weekday() * 24 + local.hour


def learn(
    heard: Iterable[HeardHour],
    *,
    first_at: datetime,
    now: datetime,
    zone: tzinfo,
    until: datetime | None = None,
) -> Rhythm:
    """Answer what is usual of a source first heard at `first_at`; hours without a row were silent.

    An hour of the week with few samples is judged by the same hour of the other working days or of the weekend.
    `until` is how far counting has come; the hour in which it stands is not over yet.
    """
    counts = {line.hour: line for line in heard}
    of_hour: Mapping[int, list[tuple[int, int]]] = defaultdict(list)
    of_sort: Mapping[tuple[bool, int], list[tuple[int, int]]] = defaultdict(list)
    hour = max(first_at + HOUR, now - HISTORY).replace(minute=0, second=0, microsecond=0)
    end = min(now, until or now)
    while hour + HOUR <= end:
        line = counts.get(hour)
        sample = (line.items, line.minutes) if line else (0, 0)
        local = hour.astimezone(zone)
        of_hour[hour_of_week(local)].append(sample)
        of_sort[local.weekday() > _FRIDAY, local.hour].append(sample)
        hour += HOUR
    return Rhythm(
        tuple(
            _usual(of_hour[place]) or _usual(of_sort[place // 24 > _FRIDAY, place % 24])
            for place in range(HOURS_OF_WEEK)
        )
    )


def _usual(samples: Sequence[tuple[int, int]]) -> UsualHour | None:
    if len(samples) < FEWEST_SAMPLES:
        return None
    return UsualHour(median(items for items, _ in samples), median(minutes for _, minutes in samples))
