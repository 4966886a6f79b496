"""The places of the rail, their keys, and how many things in each need a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from broker.workflow.overview_port import MOST_COUNTED, NeedsPerson


@dataclass(frozen=True, slots=True)
class Place:
    """One noun of the rail."""

    path: str
    label: str
    key: str
    """Typed after `g`."""
    below: tuple[str, ...] = ()
    """Further paths whose pages belong to this noun."""
    counts: str = ""
    """The field of NeedsPerson that is its badge."""
    why: str = ""
    """What the number of the badge counts, in words."""
    role: str | None = None
    """Shown to those with this role only."""

    def holds(self, path: str) -> bool:
        """Tell whether a page belongs to this noun."""
        return any(path == own or path.startswith(f"{own}/") for own in (self.path, *self.below))

    def badge(self, needs: NeedsPerson) -> str:
        """Say how many things here need a person; nothing when none do."""
        number: int = getattr(needs, self.counts) if self.counts else 0
        if not number:
            return ""
        return f"{MOST_COUNTED:,}+" if number > MOST_COUNTED else f"{number:,}"


PLACES = (
    Place("/", "Overview", "o", ("/overview", "/handover", "/alerts", "/probe"), "silent_sources", "silent"),
    Place("/find", "Find", "f", ("/orders", "/images", "/studies")),
    Place("/worklist", "Worklist", "w", (), "incomplete_orders", "incomplete"),
    Place("/deliveries", "Deliveries", "d", ("/destinations", "/operations"), "dead_deliveries", "dead"),
    Place("/messages", "Messages", "m", (), "parked_messages", "parked"),
    Place("/devices", "Devices", "s", (), "refused_devices", "refused since yesterday"),
    Place("/routes", "Routes", "r", (), "unrouted_studies", "unrouted"),
    Place("/admin", "Admin", "a", (), role="admin"),
)


def places_of(routers: Iterable[APIRouter]) -> Sequence[Place]:
    """Answer the places there is a page for."""
    served = {getattr(route, "path", "") for router in routers for route in router.routes}
    return [place for place in PLACES if place.path in served]
