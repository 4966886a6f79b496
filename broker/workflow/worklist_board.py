"""The worklist as people watch it: by day and station, in slices that hold however much is added meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from broker.domain.steps import OFFERED_BY_DEFAULT
from broker.workflow.reports_port import WorklistLine

OVERDUE_AFTER = timedelta(minutes=30)
_WAITS = frozenset(status.value for status in OFFERED_BY_DEFAULT)
_URGENT = frozenset({"STAT", "S", "A", "ASAP", "HIGH"})
NO_STATION = "no station"


@dataclass(frozen=True, slots=True)
class BoardFilters:
    """Which steps; empty fits all."""

    date: str = ""
    """`YYYYMMDD`; empty: every day, the latest first."""
    modality: str = ""
    station: str = ""
    status: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class BoardDay:
    """What one day comes to."""

    counts: Mapping[str, int]
    """Steps by status."""
    stations: tuple[str, ...]


class BoardReports(Protocol):
    """Reads for the board."""

    def board(
        self, filters: BoardFilters, *, after: int | None = None, limit: int = 50
    ) -> Sequence[WorklistLine]:
        """List steps by their start; `after` is the step the slice before ended with."""
        ...

    def board_day(self, date: str) -> BoardDay:
        """Count the steps of a day, and name its stations."""
        ...


def waiting_of(day: BoardDay) -> int:
    """Answer how many steps of a day have not begun."""
    return sum(number for status, number in day.counts.items() if status in _WAITS)


def is_overdue(line: WorklistLine, *, now: datetime) -> bool:
    """Tell whether a step has not begun although its start is long past by the site's wall clock."""
    if line.status not in _WAITS or not line.start or len(line.start) < 16:
        return False
    start = datetime.strptime(line.start, "%Y-%m-%d %H:%M").replace(tzinfo=now.tzinfo)
    return now - start > OVERDUE_AFTER


def is_urgent(line: WorklistLine) -> bool:
    """Tell whether an order was placed as one that cannot wait."""
    return line.priority.strip().upper() in _URGENT


def by_station(lines: Sequence[WorklistLine]) -> list[tuple[str, list[WorklistLine]]]:
    """Answer the steps of each station; one of several stations stands under each."""
    groups: dict[str, list[WorklistLine]] = {}
    for line in lines:
        for station in line.station_ae_titles or (NO_STATION,):
            groups.setdefault(station, []).append(line)
    return sorted(groups.items(), key=lambda group: (group[0] == NO_STATION, group[0]))
