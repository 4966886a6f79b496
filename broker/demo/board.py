"""The table the demo shows: what is going on, what each peer has, and how each journey stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from broker.demo.journeys import JOURNEYS, Day

_MARKS = {True: ("PASS", "bold green"), False: ("FAIL", "bold red"), None: ("…", "dim")}


@dataclass
class Board:
    """Draws the day; without a terminal it prints a line for each step instead."""

    console: Console
    day: Day | None = None
    now: str = "starting"
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Title -> problems, once judged."""

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
        """Show what happens now."""
        self.now = now
        if not self.console.is_terminal:
            self.console.print(f"· {now}")

    def judge(self) -> bool:
        """Judge every journey; answer whether all passed."""
        if self.day is None:
            self.problems = {journey.title: ["the day did not begin"] for journey in JOURNEYS}
        else:
            self.problems = {journey.title: journey.judge(self.day) for journey in JOURNEYS}
        return not any(self.problems.values())

    def render(self) -> Group:
        """Draw the table."""
        table = Table("Journey", "Verdict", "Problems", title="Worklist Broker · a day at Demo Hospital")
        for journey in JOURNEYS:
            found = self.problems.get(journey.title)
            mark, style = _MARKS[None if found is None else not found]
            table.add_row(journey.title, Text(mark, style), Text("; ".join(found or ())[:300]))
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
