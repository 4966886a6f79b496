"""When what is wrong becomes an alert, when it is over, and when people are told."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.alerts import (
    AlertKind,
    AlertState,
    Finding,
    Maintenance,
    Notice,
    Severity,
    follow,
    notice_of,
    patience_of,
)
from tests.builders import NOW

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def a_finding(kind=AlertKind.FAILING, severity=Severity.WARNING, headline="archive is failing"):
    return Finding(kind, "archive", severity, headline, "Look.", "/destinations/archive")


def looks(finding, *seconds, alert=None):
    """Look at the same thing at several instants."""
    for at in seconds:
        alert = follow(alert, finding, now=NOW + timedelta(seconds=at))
    return alert


def test_what_does_not_last_is_no_alert():
    alert = looks(a_finding(), 0, 30)
    assert alert.state is AlertState.PENDING
    assert follow(alert, None, now=NOW + timedelta(seconds=40)) is None


def test_what_lasts_is_raised_once_and_what_flickers_stays_one_alert():
    alert = looks(a_finding(), 0, 30, 60)
    assert (alert.state, alert.raised_at) == (AlertState.RAISED, NOW + MINUTE)
    for second in range(70, 1000, 20):
        alert = looks(a_finding() if second % 40 else None, second, alert=alert)
        assert alert.state is AlertState.RAISED
    assert alert.raised_at == NOW + MINUTE


def test_what_stays_away_for_long_enough_is_over():
    alert = looks(a_finding(), 0, 60)
    alert = looks(None, 100, 100 + 299, alert=alert)
    assert (alert.state, alert.clear_since) == (AlertState.RAISED, NOW + timedelta(seconds=100))
    alert = looks(None, 100 + 300, alert=alert)
    assert (alert.state, alert.recovered_at) == (AlertState.RECOVERED, NOW + timedelta(seconds=400))


def test_nothing_new_is_no_change():
    alert = looks(a_finding(), 0, 60)
    assert follow(alert, a_finding(), now=NOW + HOUR) is alert


def test_its_numbers_follow_at_most_once_a_minute():
    alert = looks(a_finding(), 0, 60)
    assert follow(alert, a_finding(headline="1 waits"), now=NOW + 1.5 * MINUTE) is alert
    assert follow(alert, a_finding(headline="1 waits"), now=NOW + 2 * MINUTE).headline == "1 waits"


@pytest.mark.parametrize(
    ("before", "after", "is_news"),
    [
        (Severity.WARNING, Severity.CRITICAL, True),
        (Severity.NOTICE, Severity.WARNING, True),
        (Severity.CRITICAL, Severity.WARNING, False),
    ],
)
def test_worse_is_news_even_when_somebody_has_it(before, after, is_news):
    from dataclasses import replace

    alert = looks(a_finding(severity=before), 0, 60)
    alert = replace(alert, told_at=NOW, acknowledged_at=NOW, acknowledged_by="anna")
    alert = looks(a_finding(severity=after), 61, alert=alert)
    assert alert.severity is after
    assert (alert.told_at is None, alert.acknowledged_by is None) == (is_news, is_news)


@given(st.lists(st.tuples(st.integers(1, 200), st.booleans()), max_size=60))
def test_an_alert_is_raised_after_its_patience_and_over_after_its_patience(steps):
    """Whatever comes and goes: raised only when found long enough after the first, over only after a quiet span."""
    patience, alert, now, last_found = patience_of(AlertKind.FAILING), None, NOW, None
    for step, is_wrong in steps:
        now += timedelta(seconds=step)
        before, alert = alert, follow(alert, a_finding() if is_wrong else None, now=now)
        if is_wrong:
            last_found = now
            assert alert.state is not AlertState.RECOVERED
        if alert is not None and alert.state is AlertState.RECOVERED:
            assert before.state is AlertState.RAISED
            assert now - last_found >= patience.after
            alert = None
        elif alert is not None and alert.state is AlertState.RAISED:
            assert alert.raised_at - alert.first_seen_at >= patience.before


# ---- telling -------------------------------------------------------------------------------------------


def told(alert, minutes, *, windows=(), **changes):
    from dataclasses import replace

    return notice_of(replace(alert, **changes), now=NOW + minutes * MINUTE, repeat=4 * HOUR, windows=windows)


def test_people_are_told_once_then_reminded_until_somebody_has_it():
    alert = looks(a_finding(), 0, 60)
    assert told(alert, 2) is Notice.RAISED
    assert told(alert, 239, told_at=NOW) is None
    assert told(alert, 240, told_at=NOW) is Notice.REMINDER
    assert told(alert, 240, told_at=NOW, acknowledged_at=NOW) is None
    assert told(alert, 240, told_at=NOW, clear_since=NOW) is None


def test_who_was_told_of_the_beginning_is_told_of_the_end():
    over = looks(None, 100, 400, alert=looks(a_finding(), 0, 60))
    assert told(over, 10) is None
    assert told(over, 10, told_at=NOW) is Notice.RECOVERED


@pytest.mark.parametrize(
    ("subject", "begins", "ended", "is_told"),
    [
        ("archive", 0, None, False),
        ("", 0, None, False),
        ("film", 0, None, True),
        ("archive", 5, None, True),
        ("archive", 0, NOW, True),
    ],
)
def test_a_maintenance_keeps_notices_back_and_no_facts(subject, begins, ended, is_told):
    window = Maintenance(1, NOW + begins * MINUTE, NOW + HOUR, subject, "new disks", "anna", ended)
    alert = looks(a_finding(), 0, 60)
    assert alert.state is AlertState.RAISED
    assert (told(alert, 2, windows=[window]) is Notice.RAISED) == is_told
    assert told(alert, 60, windows=[window]) is Notice.RAISED  # it is over, and this is still wrong
