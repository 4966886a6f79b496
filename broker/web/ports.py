"""What the pages need beside the reports: acting on deliveries, explaining routes, and the health of the roles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Protocol

from broker.workflow.entries import Asked, EntryReports, Sight
from broker.workflow.explain import ExplainedRoute
from broker.workflow.find_port import FindReports
from broker.workflow.messages_port import MessageBoard, ReadAgain, SegmentPart
from broker.workflow.overview_port import HealthPart, Resource
from broker.workflow.ports import Clock
from broker.workflow.reports_port import Reports


class PageReports(Reports, FindReports, EntryReports, MessageBoard, Protocol):
    """Everything the pages read."""


class Actions(Protocol):
    """What a person may do here. Each raises IllegalTransition or NotFound, and then nothing has changed."""

    def retry(self, delivery: int, *, actor: str) -> None: ...
    def cancel(self, delivery: int, *, actor: str) -> None: ...
    def resume(self, destination: str, *, actor: str) -> None: ...
    def pause(self, destination: str, *, actor: str) -> None: ...


class Picture(Protocol):
    """A small picture of an image, not for diagnosis."""

    @property
    def media_type(self) -> str: ...
    @property
    def body(self) -> bytes: ...


class Insight(Protocol):
    """What is computed when somebody asks."""

    def devices(self) -> Sequence[str]:
        """Answer the AE titles of the configured devices."""
        ...

    def sights(self, order_id: int, ae_title: str, asked: Asked) -> Sequence[Sight]:
        """Say whether a device would be shown the steps of an order, asking like this now. Raises NotFound."""
        ...

    def dissect(self, raw: bytes, problems: Sequence[Mapping[str, str]] = ()) -> Sequence[SegmentPart]:
        """Take an HL7 message apart, with its problems at their places; empty when it is none."""
        ...

    def read_again(self, raw: bytes) -> ReadAgain:
        """Say what an HL7 message asks for with the mapping in force; nothing is changed."""
        ...

    def preview(self, instance_id: int) -> Picture:
        """Answer a small picture of an instance. Raises NotFound, or OutOfResources when too many wait."""
        ...


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Everything the web application is built with."""

    reports: PageReports
    actions: Actions
    health: Callable[[], Sequence[HealthPart]]
    explain: Callable[[str], Sequence[ExplainedRoute]]
    """Study Instance UID -> verdicts."""
    insight: Insight
    clock: Clock
    zone: tzinfo
    site_name: str
    hosts: frozenset[str] | None
    """Host names the pages answer to (against DNS rebinding); None: any."""
    version: str
    resources: Callable[[], Sequence[Resource]] = tuple
    """What the roles stand on: database, Redis, disk."""
