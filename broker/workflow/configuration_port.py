"""Configuration versions: what stood in the site file, who put it there, and the file as the use cases see it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.workflow.reports_port import RoleLine


class How(Enum):
    """How a version came into the site file."""

    FOUND = "found"  # by a role that started: edited with an editor, or deployed
    APPLIED = "applied"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True)
class ConfigurationVersion:
    """A text of the site file, kept for good: routing decisions name the version they were made with."""

    id: int
    sha256: str
    body: str
    kept_at: datetime


@dataclass(frozen=True, slots=True)
class ConfigurationChange:
    """One version took the place of another."""

    id: int
    version: int
    before: int | None
    """What stood in the site file until then, where that is known."""
    how: How
    actor: str
    reason: str
    at: datetime
    in_force_at: datetime | None = None
    """When the first role ran on it; None: it waits for a reload, or never came so far."""
    problem: str | None = None
    """Why the site file could not be written; None: it was."""


class Configurations(Protocol):
    """Changes of the configuration, as stored."""

    def newest_change(self) -> ConfigurationChange | None: ...
    def in_force(self) -> ConfigurationChange | None:
        """Answer the change that came into force last."""
        ...

    def add_change(self, change: ConfigurationChange) -> int:
        """Store a change (its `id` is ignored), answer its id."""
        ...

    def came_into_force(self, change: int, *, now: datetime) -> None: ...
    def failed(self, change: int, problem: str) -> None:
        """Keep why the site file could not be written."""
        ...

    def version_of(self, sha256: str) -> int | None:
        """Answer the version that has this digest."""
        ...


class ConfigurationReports(Protocol):
    """Reads of the configuration's history."""

    def configuration_changes(
        self, *, before: int | None = None, limit: int = 50
    ) -> Sequence[ConfigurationChange]:
        """Answer changes, newest first; `before` is the id of the last one seen."""
        ...

    def configuration_version(self, version: int) -> ConfigurationVersion:
        """Answer a version. Raises NotFound."""
        ...

    def configuration_in_force(self) -> ConfigurationChange | None:
        """Answer the change that came into force last."""
        ...

    def configuration_known_as(self, sha256: str) -> int | None:
        """Answer the version that has this digest."""
        ...

    def roles(self) -> Sequence[RoleLine]:
        """Answer the heartbeats, by role."""
        ...


class Replacement(Protocol):
    """A text that lies ready beside the site file, durable."""

    def put(self, *, instead_of: str | None) -> None:
        """Give it the site file's name. Raises Conflict when that holds something else by now, or OSError."""
        ...


class SiteFile(Protocol):
    """The site file of this machine."""

    @property
    def path(self) -> str: ...
    def read(self) -> str | None:
        """Answer its text; None when there is none. Raises ConfigurationError when it cannot be kept as text."""
        ...

    def why_fixed(self) -> str:
        """Say why it cannot be written from here; empty when it can."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Keep every other process of the broker from writing it."""
        ...

    def prepared(self, body: str) -> AbstractContextManager[Replacement]:
        """Lay a text ready; it is removed unless it was put. Raises OSError."""
        ...

    def problems(self, body: str) -> Sequence[str]:
        """Check a text as the start does; answer each problem with its line."""
        ...

    def shown(self, body: str) -> str:
        """Answer a text without secrets, contacts and comments. Raises ConfigurationError for what is no YAML."""
        ...

    def hidden_differences(self, before: str, after: str) -> Sequence[str]:
        """Name the keys that are different and not shown."""
        ...

    def restart_keys(self, before: str, after: str) -> Sequence[str]:
        """Name the keys that differ and are read only when everything is started anew."""
        ...

    def commands(self, version: int) -> Sequence[str]:
        """Answer what to type where a person may write the file."""
        ...

    def reloads(self) -> bool:
        """Tell whether the roles here can be replaced in order, on the file as it stands then."""
        ...

    def reload(self) -> None:
        """Have them replaced. Raises Conflict when nobody here can."""
        ...
