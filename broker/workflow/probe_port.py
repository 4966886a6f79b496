"""Synthetic exams as they are stored: registered before anything of them is sent, removed once they are over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

PROBE = "BROKERPROBE"
"""The AE title, sending application and station of the probe."""
PROBE_DESTINATION = "broker.probe"
"""The folder it is delivered to where the site file names no destination of its own."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop of a synthetic exam."""

    name: str
    """order, worklist, begin, image, finish or delivery."""
    ok: bool
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """One synthetic exam and what became of it."""

    id: int
    study_instance_uid: str
    patient_id: str
    actor: str
    started_at: datetime
    ended_at: datetime | None = None
    failed_hop: str | None = None
    hops: tuple[Hop, ...] = ()

    @property
    def is_over(self) -> bool:
        """Tell whether it has ended."""
        return self.ended_at is not None

    @property
    def ok(self) -> bool:
        """Tell whether every hop held."""
        return self.ended_at is not None and self.failed_hop is None

    @property
    def seconds(self) -> float:
        """Answer how long its hops took."""
        return sum(hop.seconds for hop in self.hops)


class ProbeRuns(Protocol):
    """Synthetic exams."""

    def add(self, run: ProbeRun) -> int:
        """Register an exam (its `id` is ignored), answer its id."""
        ...

    def keep(self, run: ProbeRun) -> None:
        """Store what has become of it so far, or at its end."""
        ...

    def among(self, study_instance_uids: Iterable[str]) -> set[str]:
        """Answer which of these studies are synthetic."""
        ...

    def last_started(self) -> datetime | None: ...
    def open(self, *, started_before: datetime) -> list[ProbeRun]:
        """Answer exams whose rows are still there: those that held, and of the others the older ones."""
        ...

    def clear(self, run: ProbeRun) -> list[str] | None:
        """Remove every row of an exam but its registration and events; answer the paths of its files.

        None: a delivery of it is under way, or its ids would be given again; nothing is removed.
        """
        ...

    def forget(self, *, ended_before: datetime) -> int:
        """Remove old results, answer how many."""
        ...


class ProbeReports(Protocol):
    """Reads about synthetic exams."""

    def probe_runs(self, *, before: int | None = None, limit: int = 20) -> Sequence[ProbeRun]:
        """Answer the last exams that have ended, newest first; `before` is the id of the last one seen."""
        ...

    def probe_run(self, run: int) -> ProbeRun:
        """Answer one, also while it runs. Raises NotFound."""
        ...
