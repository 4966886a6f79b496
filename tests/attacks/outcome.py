"""What one attack came to, as it stands in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the report."""

    attack: str
    """What was done to us, in a few words."""
    cases: int
    """How often: inputs, faults, runs."""
    held: bool
    """True when every promise was kept."""
    detail: str
    """What was seen, with figures; what was broken, when it did not hold."""

    def line(self) -> str:
        """Answer the row of the report's table."""
        return f"| {self.attack} | {self.cases:,} | {'held' if self.held else '**BROKEN**'} | {self.detail} |"


Attack = Callable[[int, bool, Path], Iterator[Outcome]]
"""Takes a seed, whether this is the long form, and an empty folder of its own; yields as it goes."""
