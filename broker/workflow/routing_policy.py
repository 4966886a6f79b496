"""What routing is told by the configuration: routes, destinations, and when a unit is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from broker.domain.rules import Routes, Unit
from broker.workflow.completion import CompletionPolicy


class Purpose(Enum):
    """What a destination does with an image, as far as it matters here."""

    STORAGE = "storage"
    """Keeps it: gets every instance at once, and gets it again when it is resent."""
    ALGORITHM = "algorithm"
    """Works on it: gets a series when it is complete."""
    PRINT = "print"
    """Shows it to people: waits for a person when the patient is in doubt."""


def purpose_of(kind: str, *, safekeeping: bool) -> Purpose:
    """Tell what a destination is for by its kind and whether it is an archive."""
    if kind == "print":
        return Purpose.PRINT
    if safekeeping or kind == "folder":
        return Purpose.STORAGE
    return Purpose.ALGORITHM


@dataclass(frozen=True, slots=True)
class RoutedDestination:
    """What routing knows of a destination."""

    name: str
    kind: str
    purpose: Purpose
    ae_title: str | None = None
    """How it is called; an object that came from there does not go back."""

    @property
    def unit(self) -> Unit:
        """Answer the unit it prefers."""
        return Unit.INSTANCE if self.purpose is Purpose.STORAGE else Unit.SERIES


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """The routes in force and what they need."""

    routes: Routes
    configuration: int
    """Row of the configuration version these routes come from."""
    destinations: Mapping[str, RoutedDestination]
    completion: CompletionPolicy = field(default_factory=CompletionPolicy)
    probe: RoutedDestination | None = None
    """Where images of synthetic exams go, and only they; None: nowhere."""
