"""Which deliveries a person means: the filters of a page, as a value that can be stored and asked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from broker.domain.delivery import DeliveryState


@dataclass(frozen=True, slots=True)
class Selection:
    """Deliveries that fit everything that is given."""

    state: DeliveryState | None = None
    destination: str | None = None
    cause: str | None = None
    route: str | None = None
    study_instance_uid: str | None = None
    since: datetime | None = None
    """Planned at this instant or later."""
    until: datetime | None = None
    """Planned before this instant."""
    operation: int | None = None
    """Touched last by this bulk operation."""
    ids: tuple[int, ...] = ()
    """Only these; empty: all."""
    up_to: int | None = None
    """Nothing that was planned later than what the person saw."""

    @property
    def is_everything(self) -> bool:
        """Answer whether nothing narrows it down."""
        return replace(self, up_to=None) == Selection()

    def stored(self) -> dict[str, Any]:
        """Answer it as JSON keeps it, without what is not given."""
        found = {
            "state": self.state.value if self.state else None,
            "destination": self.destination,
            "cause": self.cause,
            "route": self.route,
            "study": self.study_instance_uid,
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "operation": self.operation,
            "ids": list(self.ids) or None,
            "up_to": self.up_to,
        }
        return {name: value for name, value in found.items() if value is not None}


def selection_of(stored: Mapping[str, Any]) -> Selection:
    """Read what `Selection.stored` answered."""
    state, since, until = stored.get("state"), stored.get("since"), stored.get("until")
    return Selection(
        state=DeliveryState(state) if state else None,
        destination=stored.get("destination"),
        cause=stored.get("cause"),
        route=stored.get("route"),
        study_instance_uid=stored.get("study"),
        since=datetime.fromisoformat(since) if since else None,
        until=datetime.fromisoformat(until) if until else None,
        operation=stored.get("operation"),
        ids=tuple(stored.get("ids") or ()),
        up_to=stored.get("up_to"),
    )
