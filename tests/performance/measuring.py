"""Measures two or more implementations of one work in the same run, in turn, and compares them in ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

OURS = "ours"


@dataclass(frozen=True)
class Measured:
    """One work, measured several times of each party; larger is better."""

    work: str
    unit: str
    rounds: Mapping[str, list[float]]

    def median(self, party: str) -> float:
        """Answer the median of a party's rounds."""
        return statistics.median(self.rounds[party])

    def ratio(self, party: str) -> float:
        """Answer how many times faster we are than a party."""
        return self.median(OURS) / self.median(party)

    def lines(self) -> list[str]:
        """Answer a row for each party: median, spread, and our ratio to it."""
        rows = []
        for party, values in self.rounds.items():
            ratio = "" if party == OURS else f"**{figure(self.ratio(party))}×**"
            spread = f"{figure(min(values))}–{figure(max(values))}"
            rows.append(
                f"| {self.work} | {party} | {figure(self.median(party))} {self.unit} | {spread} | {ratio} |"
            )
        return rows


@dataclass(frozen=True)
class Latency:
    """How long one work took, each time it was done; smaller is better."""

    work: str
    who: str
    taken_s: list[float]

    def quantile_ms(self, share: float) -> float:
        """Answer what a share of all took at most, in milliseconds."""
        ordered = sorted(self.taken_s)
        return 1_000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def lines(self) -> list[str]:
        """Answer one row: median, 99th percentile, slowest."""
        p50, p99, slowest = (figure(self.quantile_ms(share)) for share in (0.5, 0.99, 1.0))
        return [f"| {self.work} | {self.who} | p50 {p50} ms | p99 {p99} ms, slowest {slowest} ms | |"]


@dataclass(frozen=True)
class Size:
    """Something that is counted once, beside its bound."""

    work: str
    who: str
    value: float
    unit: str
    bound: str = ""

    def lines(self) -> list[str]:
        """Answer one row."""
        return [f"| {self.work} | {self.who} | {figure(self.value)} {self.unit} | {self.bound} | |"]


@dataclass(frozen=True)
class Growth:
    """How one cost grows with the size of something."""

    work: str
    unit: str
    by: str
    points: Mapping[int, float]

    def lines(self) -> list[str]:
        """Answer a row for each size."""
        return [
            f"| {self.work} | {size:,} {self.by} | {figure(value)} {self.unit} | | |"
            for size, value in self.points.items()
        ]

    def chart(self) -> str:
        """Draw it, as Mermaid's xychart."""
        sizes = ", ".join(f'"{size:,}"' for size in self.points)
        values = ", ".join(f"{value:.3g}" for value in self.points.values())
        top = 1.25 * max(self.points.values())
        return "\n".join(
            [
                "```mermaid",
                "xychart-beta",
                f'  title "{self.work}"',
                f'  x-axis "{self.by}" [{sizes}]',
                f'  y-axis "{self.unit}" 0 --> {top:.3g}',
                f"  line [{values}]",
                "```",
            ]
        )


class Reported(Protocol):
    """Whatever has rows in the report."""

    def lines(self) -> list[str]:
        """Answer rows of the table."""
        ...


def figure(value: float) -> str:
    """Write three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def in_turn(work: str, unit: str, parties: Mapping[str, Callable[[], float]], *, rounds: int = 5) -> Measured:
    """Let each party do the work once in every round, beginning with another one each time."""
    names = list(parties)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for position in range(len(names)):
            name = names[(number + position) % len(names)]
            taken[name].append(parties[name]())
    return Measured(work, unit, taken)


def per_second(once: Callable[[], object], *, at_least_s: float) -> float:
    """Answer how often a second something can be done, doing it for a while."""
    began_s, done = time.perf_counter(), 0
    while True:
        once()
        done += 1
        took_s = time.perf_counter() - began_s
        if took_s >= at_least_s:
            return done / took_s
