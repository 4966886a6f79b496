"""When a silence is out of the ordinary, and when it is only night."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.rhythm import (
    HOURS_OF_WEEK,
    NOTHING_KNOWN,
    HeardHour,
    Rhythm,
    Silence,
    UsualHour,
    hour_of_week,
    learn,
)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 11, 21, 14, 0, tzinfo=UTC)  # a Saturday
BERLIN = ZoneInfo("Europe/Berlin")


def hours(talks, *, since=timedelta(weeks=5), until=NOW):
    """Answer what was heard in every hour of which `talks(hour)` answers (items, minutes)."""
    hour, heard = until - since, []
    while hour < until:
        items, minutes = talks(hour)
        if items:
            heard.append(HeardHour(hour, items, minutes))
        hour += HOUR
    return heard


def rhythm(talks, *, since=timedelta(weeks=5), zone=UTC, now=NOW):
    return learn(hours(talks, since=since, until=now), first_at=now - since, now=now, zone=zone)


def every_four_minutes(_hour):
    return 20, 15


def by_day(hour):
    return (15, 15) if 7 <= hour.hour < 19 else (0, 0)


def test_a_ris_that_stops_is_silent_with_its_reason():
    found = rhythm(every_four_minutes).judge(NOW - timedelta(minutes=38), now=NOW, zone=UTC)
    assert found.silence is Silence.SILENT
    assert found.reason == "silent for 38 min, usually every 4 min at this hour on a Saturday"
    assert found.usual_gap == timedelta(minutes=4)


@pytest.mark.parametrize(
    ("minutes", "silence"),
    [
        (0, Silence.NORMAL),
        (12, Silence.NORMAL),
        (18, Silence.QUIET),
        (31, Silence.QUIET),
        (33, Silence.SILENT),
    ],
)
def test_a_silence_is_weighed_by_what_would_have_come(minutes, silence):
    found = rhythm(every_four_minutes).judge(NOW - timedelta(minutes=minutes), now=NOW, zone=UTC)
    assert found.silence is silence


def test_a_night_in_which_nothing_is_usual_is_no_silence():
    known = rhythm(by_day, now=NOW)
    evening = datetime(2026, 11, 20, 18, 50, tzinfo=UTC)
    at_night = known.judge(evening, now=datetime(2026, 11, 21, 6, 30, tzinfo=UTC), zone=UTC)
    assert at_night.silence is Silence.NORMAL
    assert at_night.reason == "usually nothing at this hour on a Saturday"
    in_the_morning = known.judge(evening, now=datetime(2026, 11, 21, 7, 3, tzinfo=UTC), zone=UTC)
    assert in_the_morning.silence is Silence.NORMAL
    later = known.judge(evening, now=datetime(2026, 11, 21, 7, 40, tzinfo=UTC), zone=UTC)
    assert later.silence is Silence.SILENT


def test_who_fell_silent_by_day_does_not_alarm_at_an_hour_in_which_nobody_expects_anything():
    known = rhythm(by_day)
    noon, night = datetime(2026, 11, 20, 12, 0, tzinfo=UTC), datetime(2026, 11, 21, 1, 0, tzinfo=UTC)
    assert known.judge(noon, now=noon + HOUR, zone=UTC).silence is Silence.SILENT
    assert known.judge(noon, now=night, zone=UTC).silence is Silence.NORMAL


def test_too_little_history_says_so_and_never_alarms():
    found = rhythm(every_four_minutes, since=2 * DAY).judge(NOW - 20 * HOUR, now=NOW, zone=UTC)
    assert found.silence is Silence.UNKNOWN
    assert found.reason == "too little is known of what is usual at this hour on a Saturday"
    assert NOTHING_KNOWN.judge(NOW - DAY, now=NOW, zone=UTC).silence is Silence.UNKNOWN


def test_three_working_days_tell_the_rhythm_of_a_fourth():
    friday = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)
    known = rhythm(every_four_minutes, since=timedelta(days=4), now=friday)
    assert known.judge(friday - HOUR, now=friday, zone=UTC).silence is Silence.SILENT
    saturday = friday + DAY
    assert known.judge(friday, now=saturday, zone=UTC).silence is Silence.UNKNOWN


def test_one_holiday_changes_nothing_and_one_wild_day_neither():
    def with_holiday(hour):
        days = (NOW - hour).days
        return (0, 0) if days == 7 else (9000, 60) if days == 14 else every_four_minutes(hour)

    assert rhythm(with_holiday).hours[hour_of_week(NOW)] == UsualHour(20, 15)


def test_a_series_of_images_is_one_sign_of_life():
    """One exam an hour of 600 images in two minutes: the usual gap is half an hour, not six seconds."""
    known = rhythm(lambda _hour: (600, 2))
    assert known.hours[0].gap == timedelta(minutes=30)
    assert known.judge(NOW - 2 * HOUR, now=NOW, zone=UTC).silence is Silence.QUIET
    assert known.judge(NOW - HOUR, now=NOW, zone=UTC).silence is Silence.NORMAL


def test_who_talks_all_the_time_is_known_by_the_second_and_still_given_minutes():
    known = rhythm(lambda _hour: (3600, 60))
    assert known.hours[0].gap == timedelta(seconds=1)
    assert known.judge(NOW - timedelta(minutes=4), now=NOW, zone=UTC).silence is Silence.NORMAL
    assert known.judge(NOW - timedelta(minutes=9), now=NOW, zone=UTC).silence is Silence.SILENT


def test_the_week_is_the_hospitals_not_greenwichs():
    def noon_in_berlin(hour):
        return (10, 10) if hour.astimezone(BERLIN).hour == 12 else (0, 0)

    known = rhythm(noon_in_berlin, zone=BERLIN)
    assert known.hours[5 * 24 + 12].minutes == 10, "on both sides of the change to winter time"
    assert known.hours[5 * 24 + 11].minutes == 0


def test_a_source_that_is_gone_for_weeks_alarms_no_more():
    def gone(hour):
        return (0, 0) if NOW - hour <= timedelta(weeks=3) else every_four_minutes(hour)

    assert rhythm(gone).judge(NOW - timedelta(weeks=3), now=NOW, zone=UTC).silence is Silence.NORMAL


def test_an_hour_that_is_not_over_or_not_counted_is_no_sample():
    now = NOW + timedelta(minutes=30)
    heard = [*hours(every_four_minutes), HeardHour(NOW, 1, 1)]
    known = learn(heard, first_at=NOW - timedelta(weeks=5), now=now, zone=UTC)
    assert known.hours[hour_of_week(NOW)] == UsualHour(20, 15)
    behind = learn([], first_at=NOW - timedelta(weeks=5), now=now, zone=UTC, until=NOW - timedelta(weeks=5))
    assert behind == NOTHING_KNOWN, "what was not counted yet was not silent"


def test_a_clock_that_was_set_back_is_no_silence():
    found = rhythm(every_four_minutes).judge(NOW + HOUR, now=NOW, zone=UTC)
    assert found.silence is Silence.NORMAL


@given(
    minutes=st.lists(st.integers(0, 60), min_size=HOURS_OF_WEEK, max_size=HOURS_OF_WEEK),
    since_s=st.integers(0, 7 * 86400),
)
def test_the_longer_a_silence_the_more_was_missed(minutes, since_s):
    known = Rhythm(tuple(UsualHour(number, number) for number in minutes))
    since = NOW - timedelta(seconds=since_s)
    missed = [known.missed(since, timedelta(seconds=part * since_s / 10)) for part in range(11)]
    assert all(before <= after + 1e-9 for before, after in pairwise(missed))
