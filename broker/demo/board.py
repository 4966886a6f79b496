"""The table the demo shows: what is going on, what each peer has, and how each journey stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from broker.demo.journeys import JOURNEYS, Day

_MARKS = {
    (True, True): Text("PASS", "bold green"),
    (True, False): Text("FAIL", "bold red"),
    (False, True): Text("holds", "green"),
    (False, False): Text("…", "dim"),
}
"""(judged, without problems); while the day runs, a promise holds already or not yet."""


@dataclass
class Board:
    """Draws the day; without a terminal it prints a line for each step instead."""

    console: Console
    day: Day | None = None
    now: str = "starting"
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Title -> problems, as last looked at."""
    judged: bool = False

    def __post_init__(self) -> None:
        self._live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, now: str) -> None:
        """Show what happens now, and look how the journeys stand."""
        self.now = now
        if not self.judged:
            self.look()
        if not self.console.is_terminal:
            self.console.print(f"· {now}")

    def look(self) -> None:
        """Look how every journey stands."""
        if self.day is None:
            self.problems = {journey.title: ["the day did not begin"] for journey in JOURNEYS}
        else:
            self.problems = {journey.title: journey.judge(self.day) for journey in JOURNEYS}

    def judge(self) -> bool:
        """Give the verdict; answer whether all passed."""
        self.look()
        self.judged = True
        return not any(self.problems.values())

    def render(self) -> Group:
        """Draw the table."""
        table = Table("Journey", "Verdict", "The promise, or what broke it")
        table.title = "Worklist Broker · a day at Demo Hospital"
        for journey in JOURNEYS:
            found = self.problems.get(journey.title, ["nothing yet"])
            mark = _MARKS[self.judged, not found]
            broken = self.judged and bool(found)
            words = Text("; ".join(found)[:300], "red") if broken else Text(journey.promise, "dim")
            table.add_row(journey.title, mark, words)
        return Group(table, Text(self._ledgers(), "cyan"), Text(f"now: {self.now}", "dim"))

    def _ledgers(self) -> str:
        day = self.day
        if day is None:
            return ""
        sent = sum(len(exam.images) for exam in day.exams.values())
        return (
            f"RIS sent {len(day.ris.sent)} messages, heard {len(day.ris.statuses)} · scanners sent {sent} images · "
            f"CAD {len(day.cad.received)} · archive {len(day.archive.received)} · films {len(day.printer.films)}"
        )
