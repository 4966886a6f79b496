"""What differs between two texts, line by line, for reading side by side or one below the other."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest

CONTEXT = 3


class Side(Enum):
    """What became of a line."""

    SAME = "same"
    CHANGED = "changed"
    REMOVED = "removed"
    ADDED = "added"
    SKIPPED = "skipped"  # stands for lines that are the same and not shown


@dataclass(frozen=True, slots=True)
class DiffRow:
    """A line of both texts, or of one; numbers count from 1."""

    side: Side
    before_line: int | None = None
    before: str = ""
    after_line: int | None = None
    after: str = ""


def differences(before: str, after: str, *, context: int = CONTEXT) -> Sequence[DiffRow]:
    """Answer the lines that differ with a few around them; empty when all are the same."""
    old, new = before.splitlines(), after.splitlines()
    rows: list[DiffRow] = []
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(context):
        _, first, _, _, _ = group[0]
        if rows or first:
            rows.append(DiffRow(Side.SKIPPED))
        for _, i, i_end, j, j_end in group:
            for one, other in zip_longest(range(i, i_end), range(j, j_end)):
                rows.append(_row(old, new, one, other))
    return rows


def _row(old: Sequence[str], new: Sequence[str], one: int | None, other: int | None) -> DiffRow:
    if one is None:
        assert other is not None
        return DiffRow(Side.ADDED, after_line=other + 1, after=new[other])
    if other is None:
        return DiffRow(Side.REMOVED, before_line=one + 1, before=old[one])
    side = Side.SAME if old[one] == new[other] else Side.CHANGED
    return DiffRow(side, one + 1, old[one], other + 1, new[other])


def unified(rows: Sequence[DiffRow]) -> Sequence[str]:
    """Write rows as `diff -u` does, below one another: what goes before what comes."""
    lines: list[str] = []
    held: list[str] = []
    for row in rows:
        if row.side in {Side.SAME, Side.SKIPPED}:
            lines += held
            held = []
            lines.append("@@" if row.side is Side.SKIPPED else f" {row.before}")
            continue
        if row.before_line is not None:
            lines.append(f"-{row.before}")
        if row.after_line is not None:
            held.append(f"+{row.after}")
    return [*lines, *held]
