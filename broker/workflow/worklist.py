"""Answers "what is scheduled?": candidates from the database, decided by domain matching (RAD-5, PS3.4 annex K)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, Protocol

from broker.domain.devices import DeviceProfile
from broker.domain.matching import (
    StartCriterion,
    StepView,
    Verdict,
    WorklistQuery,
    explain,
    matches,
    view_of,
)
from broker.domain.orders import WorklistEntry
from broker.domain.steps import OFFERED_BY_DEFAULT, StepStatus
from broker.domain.values import DateRange
from broker.errors import OutOfResources
from broker.workflow.clock import Clock
from broker.workflow.probe_port import PROBE

DISCONTINUED_VISIBLE_FOR = timedelta(days=14)
"""A step discontinued with images waits on the list for a person's decision, but not for ever."""


@dataclass(frozen=True, slots=True)
class Visibility:
    """Says which steps a device may see, beside what its query asks."""

    statuses: frozenset[StepStatus] = OFFERED_BY_DEFAULT
    started_since: datetime | None = None
    """Steps started since then are still shown, so that a scanner can append or another can take over …"""
    started_modalities: tuple[str, ...] = ()
    """… to devices of the same modality."""
    discontinued_since: datetime | None = None
    """Steps discontinued with images since then are still shown, flagged."""
    synthetic: bool = False
    """Steps of synthetic exams, which nobody else sees, instead of those of patients."""

    @property
    def kind(self) -> tuple[frozenset[StepStatus], tuple[str, ...] | None, bool, bool]:
        """Say what is shown without saying since when: what a plan depends on."""
        shown = None if self.started_since is None else self.started_modalities
        return self.statuses, shown, self.discontinued_since is not None, self.synthetic


class Answer(NamedTuple):
    """One step that matches. What is encoded for a revision never changes."""

    step: int
    revision: int
    elements: bytes


Candidate = tuple[Answer, StepView]
"""A step the database thinks may match, and how the criteria see it."""


class WorklistReader(Protocol):
    """Finds candidates: at least every visible step that matches, in the order of the worklist."""

    def candidates(self, query: WorklistQuery, visibility: Visibility) -> Iterator[Candidate]:
        """Answer them, reading as they are taken."""
        ...

    def near(self, query: WorklistQuery, *, limit: int) -> list[tuple[WorklistEntry, datetime]]:
        """Answer entries in any status that agree with one identifying key, and since when in that status."""
        ...


class Exclusion(Enum):
    """Why a step that a query was near to is not in the answer."""

    KEY = "key"
    STATUS = "status"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class NearMiss:
    """An entry that is not in the answer, and why."""

    entry: WorklistEntry
    verdicts: tuple[Verdict, ...]
    reasons: tuple[tuple[Exclusion, str], ...]


class TooManyAnswers(OutOfResources):
    """The query matches more steps than this device takes."""


class Worklist:
    """Answers worklist queries."""

    def __init__(self, reader: WorklistReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock

    def find(self, query: WorklistQuery, device: DeviceProfile) -> Iterator[Answer]:
        """Answer the matching steps by start date, time, priority and name, as many as there are.

        A device profile may cap the answers; then the first ones are given, or TooManyAnswers is raised before
        any, as the profile says. Raises DatabaseUnavailable.
        """
        query = self.effective(query, device)
        found = _matching(query, self._reader.candidates(query, self.visibility(query, device)))
        if device.max_results is None:
            return found
        return _capped(found, device.max_results, refuse=device.refuses_over_limit)

    def effective(self, query: WorklistQuery, device: DeviceProfile) -> WorklistQuery:
        """Answer the query that is run: a guarded device that asks for everything means these days."""
        if not device.guards_broad_queries or query.criteria or query.statuses is not None:
            return query
        today = self._clock.local_now().date()
        day = timedelta(days=1)
        days = DateRange(today - day, today + day)
        return WorklistQuery((StartCriterion(days, None, "today, a day either way"),), None, query.ignored)

    def visibility(self, query: WorklistQuery, device: DeviceProfile) -> Visibility:
        """Answer what the device may see: what its query names, else what can still be done."""
        if device.ae_title == PROBE:
            return Visibility(synthetic=True)
        if query.statuses is not None:
            return Visibility(query.statuses - {StepStatus.HELD})
        now = self._clock.now()
        return Visibility(
            OFFERED_BY_DEFAULT,
            started_since=now - device.started_visible_for if device.modalities else None,
            started_modalities=device.modalities,
            discontinued_since=now - DISCONTINUED_VISIBLE_FOR,
        )

    def explain(self, query: WorklistQuery, device: DeviceProfile, *, limit: int = 20) -> list[NearMiss]:
        """Answer the entries a query nearly found, those that fail least first, each with what excluded it."""
        found = (
            self.judge(query, device, entry, since)
            for entry, since in self._reader.near(self.effective(query, device), limit=limit * 5)
        )
        misses = [miss for miss in found if miss.reasons]
        return sorted(misses, key=lambda miss: len(miss.reasons))[:limit]

    def judge(
        self, query: WorklistQuery, device: DeviceProfile, entry: WorklistEntry, status_since: datetime
    ) -> NearMiss:
        """Hold one entry against a query of a device; it is in the answer when there is no reason against it."""
        query = self.effective(query, device)
        verdicts = explain(query, view_of(entry))
        reasons = [(Exclusion.KEY, verdict.reason) for verdict in verdicts if not verdict.holds]
        if not is_visible(entry, status_since, self.visibility(query, device)):
            reasons.append((Exclusion.STATUS, f"the step is {entry.step.status.value}"))
        if entry.step.missing:
            missing = ", ".join(entry.step.missing)
            reasons.append((Exclusion.INCOMPLETE, f"the order lacks {missing}"))
        return NearMiss(entry, verdicts, tuple(reasons))


def is_visible(entry: WorklistEntry, status_since: datetime, visibility: Visibility) -> bool:
    """Tell whether the status of a step lets a device see it."""
    step = entry.step
    if step.status in visibility.statuses:
        return True
    if step.status is StepStatus.STARTED and visibility.started_since is not None:
        return status_since >= visibility.started_since and step.modality in visibility.started_modalities
    if step.status is StepStatus.DISCONTINUED and visibility.discontinued_since is not None:
        return status_since >= visibility.discontinued_since and step.previous_status is StepStatus.STARTED
    return False


def _matching(query: WorklistQuery, candidates: Iterable[Candidate]) -> Iterator[Answer]:
    judged: StepView | None = None
    fits = False
    for answer, view in candidates:
        if view is not judged:  # steps that look the same to the criteria share their view
            judged, fits = view, matches(query, view)
        if fits:
            yield answer


def _capped(found: Iterator[Answer], limit: int, *, refuse: bool) -> Iterator[Answer]:
    first: list[Answer] = []
    for answer in found:
        if len(first) == limit:
            if refuse:
                raise TooManyAnswers(f"more than {limit} steps match")
            break
        first.append(answer)
    return iter(first)
