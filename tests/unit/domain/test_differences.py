"""What differs between two texts: no line is lost, none is made up."""

import difflib

from hypothesis import given
from hypothesis import strategies as st

from broker.domain.differences import Side, differences, unified

TEXTS = st.lists(st.sampled_from("abcd"), max_size=30).map("\n".join)


def test_a_changed_line_stands_beside_what_it_was():
    rows = differences("a\nb\nc", "a\nB\nc\nd")
    assert [(row.side, row.before_line, row.before, row.after_line, row.after) for row in rows] == [
        (Side.SAME, 1, "a", 1, "a"),
        (Side.CHANGED, 2, "b", 2, "B"),
        (Side.SAME, 3, "c", 3, "c"),
        (Side.ADDED, None, "", 4, "d"),
    ]
    assert unified(rows) == [" a", "-b", "+B", " c", "+d"]


def test_lines_far_from_a_difference_are_skipped_and_said_to_be():
    text = [str(number) for number in range(100)]
    rows = differences("\n".join(text), "\n".join([*text[:50], "x", *text[51:]]))
    assert [row.side for row in rows] == [Side.SKIPPED, *[Side.SAME] * 3, Side.CHANGED, *[Side.SAME] * 3]
    assert rows[1].before_line == 48


@given(TEXTS, TEXTS)
def test_whatever_differs_is_there_and_nothing_else(before, after):
    rows = differences(before, after, context=100)
    if before.splitlines() == after.splitlines():
        assert rows == []
        return
    assert [row.before for row in rows if row.before_line] == before.splitlines()
    assert [row.after for row in rows if row.after_line] == after.splitlines()
    signed = list(difflib.restore((f"{line[0]} {line[1:]}" for line in unified(rows)), 2))
    assert signed == after.splitlines()
