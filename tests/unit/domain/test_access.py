"""Roles, names, passwords, and how long a wrong one makes one wait."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.access import Role, Throttle, account_name, new_password, prepared_password
from broker.domain.common_passwords import COMMON
from broker.errors import InvalidValue

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_each_role_may_do_what_the_one_before_may():
    covered = {role: {needed for needed in Role if role.covers(needed)} for role in Role}
    assert covered == {
        Role.VIEWER: {Role.VIEWER},
        Role.OPERATOR: {Role.VIEWER, Role.OPERATOR},
        Role.ADMIN: set(Role),
    }


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("Ada", "ada"),
        (" ada ", "ada"),
        ("\uff21\uff24\uff21", "ada"),
        ("ZOE\u0308", "zoë"),
        ("a.b_c-d@e", "a.b_c-d@e"),
        ("山田", "山田"),
    ],
)
def test_a_name_is_kept_in_one_form(typed, name):
    assert account_name(typed) == name


@pytest.mark.parametrize(
    "typed", ["", " ", "a b", "a/b", "<b>", "a\x00", "\u202eada", "x" * 65, "-a", "x" * 300]
)
def test_what_is_no_name_is_refused(typed):
    with pytest.raises(InvalidValue):
        account_name(typed)


@pytest.mark.parametrize(
    "password",
    [
        "short",
        "eleven char",
        "aaaaaaaaaaaaaaaa",
        "abcabcabcabcabc",
        "passwordpassword",
        "PassWord1234",
        "abcdefghijklmnop",
        "ponmlkjihgfedcba",
        "qwertyuiopasdf",
        "123456789012",
        "hannahhannah",
        "hannah123456",
        "\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff441234",
    ],
)
def test_what_is_tried_first_is_refused(password):
    with pytest.raises(InvalidValue):
        new_password(password, name="hannah")


@pytest.mark.parametrize(
    "password",
    ["one lamp, two doors", "山田太郎は毎朝七時に起きます", "hannah and the two red lamps", "x9!kQ2#vLp0w"],
)
def test_what_is_long_and_not_tried_first_is_taken(password):
    assert new_password(password, name="hannah") == password


@pytest.mark.parametrize(
    "password", ["x" * 1025, "ü" * 513, "a\x00" * 12, "tab\tand more of it", "\ud800" * 12]
)
def test_what_cannot_be_a_password_is_refused_before_anything_is_done_with_it(password):
    with pytest.raises(InvalidValue):
        prepared_password(password)


@given(st.text(max_size=200))
def test_preparing_twice_changes_nothing_more(text):
    try:
        once = prepared_password(text)
    except InvalidValue:
        return
    assert prepared_password(once) == once


def test_every_common_password_is_long_enough_to_be_chosen_and_in_the_form_it_is_compared_in():
    assert [text for text in COMMON if len(text) < 12 or text != text.casefold()] == []
    assert len(COMMON) > 200


def test_five_tries_are_free_then_each_wait_is_twice_the_one_before():
    throttle, now, waits = Throttle(), NOW, []
    for _ in range(13):
        wait = throttle.wait("k", now)
        waits.append(wait.total_seconds())
        now += wait
        throttle.count("k", now)
    assert waits == [0, 0, 0, 0, 0, 12, 24, 48, 96, 192, 384, 768, 900]
    assert throttle.wait("other", now) == timedelta(0)


def test_a_wait_shrinks_with_time_and_silence_forgives():
    throttle = Throttle()
    for _ in range(5):
        throttle.count("k", NOW)
    assert throttle.wait("k", NOW + timedelta(seconds=5)) == timedelta(seconds=7)
    throttle.count("k", NOW + 15 * MINUTE)
    assert throttle.wait("k", NOW + 15 * MINUTE) == timedelta(0)


def test_few_tries_a_minute_are_never_kept_waiting():
    throttle = Throttle()
    for number in range(100):
        at = NOW + number * timedelta(seconds=20)
        assert throttle.wait("k", at) == timedelta(0)
        throttle.count("k", at)


def test_who_succeeds_is_forgiven_and_the_oldest_are_forgotten():
    throttle = Throttle(max_keys=3)
    for key in "abcd":
        for _ in range(5):
            throttle.count(key, NOW)
    assert throttle.wait("a", NOW) == timedelta(0)
    assert throttle.wait("d", NOW) == timedelta(seconds=12)
    throttle.forgive("d")
    assert throttle.wait("d", NOW) == timedelta(0)
