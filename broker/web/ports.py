"""What the pages need beside the reports: acting on deliveries, explaining routes, and the health of the roles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Protocol

from broker.workflow.explain import ExplainedRoute
from broker.workflow.find_port import FindReports
from broker.workflow.ports import Clock
from broker.workflow.reports_port import Reports


class PageReports(Reports, FindReports, Protocol):
    """Everything the pages read."""


class Actions(Protocol):
    """What a person may do here. Each raises IllegalTransition or NotFound, and then nothing has changed."""

    def retry(self, delivery: int, *, actor: str) -> None: ...
    def cancel(self, delivery: int, *, actor: str) -> None: ...
    def resume(self, destination: str, *, actor: str) -> None: ...
    def pause(self, destination: str, *, actor: str) -> None: ...


@dataclass(frozen=True, slots=True)
class HealthPart:
    """One listener or role."""

    name: str
    ok: bool
    detail: str
    beat_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Everything the web application is built with."""

    reports: PageReports
    actions: Actions
    health: Callable[[], Sequence[HealthPart]]
    explain: Callable[[str], Sequence[ExplainedRoute]]
    """Study Instance UID -> verdicts."""
    clock: Clock
    zone: tzinfo
    site_name: str
    hosts: frozenset[str] | None
    """Host names the pages answer to (against DNS rebinding); None: any."""
    version: str
