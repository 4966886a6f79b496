"""Where everything stands in the picture of the rules: senders on the left, rules, destinations on the right."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from broker.workflow.rulebook import Rulebook

ROW = 52
TOP = 34
LEFT, MIDDLE, RIGHT = 0, 330, 690
"""Where the boxes of each column begin."""
BOX = 190
WIDTH = RIGHT + BOX
MOST_SOURCES = 10


@dataclass(frozen=True, slots=True)
class Box:
    """One box of the picture."""

    x: int
    y: int
    name: str
    note: str
    link: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One way between two boxes."""

    path: str
    width: float
    about: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything to draw, and how large it is."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


def picture_of(book: Rulebook) -> Picture:
    """Place senders, rules and destinations, and the ways of today between them."""
    traffic = book.traffic
    senders = sorted(traffic.sources, key=lambda name: (-traffic.sources[name], name))
    shown, others = senders[:MOST_SOURCES], senders[MOST_SOURCES:]
    destinations = list(dict.fromkeys(name for rule in book.rules for name in rule.destinations))
    rows = max(len(shown) + bool(others), len(book.rules), len(destinations), 1)
    height = TOP + rows * ROW
    boxes: list[Box] = []
    at: dict[tuple[str, str], Box] = {}

    def place(column: str, x: int, entries: Iterable[tuple[str, str, str, str]]) -> None:
        listed = list(entries)
        above = (rows - len(listed)) * ROW // 2
        for number, (name, note, link, state) in enumerate(listed):
            box = Box(x, TOP + above + number * ROW, name, note, link, state)
            at[column, name] = box
            boxes.append(box)

    sources = [(name, _series(traffic.sources[name]), "", "") for name in shown]
    if others:
        sources.append(
            (f"{len(others)} others", _series(sum(traffic.sources[name] for name in others)), "", "")
        )
    place("source", LEFT, sources)
    place(
        "rule",
        MIDDLE,
        [
            (
                rule.name,
                f"{_series(rule.matched_today)} matched",
                f"#rule-{rule.name}",
                rule.state,
            )
            for rule in book.rules
        ],
    )
    sent = {name: sum(rule.sent_today.get(name, 0) for rule in book.rules) for name in destinations}
    place(
        "destination",
        RIGHT,
        [(name, _deliveries(sent[name]), f"/destinations/{name}", "") for name in destinations],
    )
    lines = [
        _line(at["source", sender], at["rule", rule], number, f"{sender} to {rule}: {_series(number)}")
        for (sender, rule), number in sorted(traffic.matches.items())
        if ("source", sender) in at and ("rule", rule) in at
    ]
    for rule in book.rules:
        for name in rule.destinations:
            number = rule.sent_today.get(name, 0)
            about = f"{rule.name} to {name}: {_deliveries(number)}"
            lines.append(_line(at["rule", rule.name], at["destination", name], number, about))
    return Picture(WIDTH, height, tuple(boxes), tuple(lines))


def _line(start: Box, end: Box, number: int, about: str) -> Line:
    x1, y1, x2, y2 = start.x + BOX, start.y + 20, end.x, end.y + 20
    bend = (x1 + x2) // 2
    # What passes today is drawn by the order of magnitude: one series stays visible beside ten thousand.
    width = round(1.5 + 1.5 * math.log10(number), 1) if number else 0.0
    return Line(f"M{x1} {y1} C{bend} {y1} {bend} {y2} {x2} {y2}", width, about)


def _series(number: int) -> str:
    return f"{number:,} series"


def _deliveries(number: int) -> str:
    return f"{number:,} {'delivery' if number == 1 else 'deliveries'}"
