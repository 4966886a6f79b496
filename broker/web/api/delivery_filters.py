"""The filters of deliveries as programs write them: the same in the address of a list and in the body of an act."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends, Query
from pydantic import BaseModel, Field

from broker.domain.causes import BY_NAME
from broker.domain.delivery import DeliveryState
from broker.web.api.instants import Instant
from broker.web.pages import Text
from broker.workflow.delivery_filters import MAX_IDS, DeliveryFilters

Short = Annotated[str, Field(max_length=128, pattern=r"^[^\x00]*$")]
Cause = Annotated[str, Field(pattern=f"^({'|'.join(BY_NAME)})?$", description="Why they are dead.")]
Age = Literal["", "15m", "1h", "4h", "1d", "7d"]
Id = Annotated[int, Field(ge=1, lt=10**18)]


class DeliverySelection(BaseModel):
    """Deliveries that fit everything that is given."""

    state: Annotated[DeliveryState, Field(strict=False)] | None = None
    destination: Short = ""
    cause: Cause = ""
    route: Short = ""
    study: Short = ""
    """Study Instance UID."""
    age: Age = ""
    """Planned so long ago at least."""
    since: Instant | None = None
    """Planned then or later."""
    until: Instant | None = None
    """Planned before."""
    operation: Id | None = None
    """Touched last by this act on many."""
    ids: Annotated[list[Id], Field(max_length=MAX_IDS)] = []

    def filters(self) -> DeliveryFilters:
        """Answer them as people type them."""
        return DeliveryFilters(
            state=self.state.value if self.state else "",
            destination=self.destination,
            cause=self.cause,
            route=self.route,
            study=self.study,
            age=self.age,
            since=self.since.isoformat() if self.since else "",
            until=self.until.isoformat() if self.until else "",
            operation="" if self.operation is None else str(self.operation),
            ids=",".join(map(str, self.ids)),
        )


def _asked(
    state: DeliveryState | None = None,
    destination: Text = "",
    cause: Annotated[Cause, Query()] = "",
    route: Text = "",
    study: Text = "",
    age: Age = "",
    since: Annotated[Instant | None, Query()] = None,
    until: Annotated[Instant | None, Query()] = None,
    operation: Annotated[Id | None, Query()] = None,
    ids: Annotated[list[Id] | None, Query(max_length=MAX_IDS)] = None,
) -> DeliverySelection:
    return DeliverySelection(
        state=state,
        destination=destination,
        cause=cause,
        route=route,
        study=study,
        age=age,
        since=since,
        until=until,
        operation=operation,
        ids=ids or [],
    )


TheSelection = Annotated[DeliverySelection, Depends(_asked)]
"""In the address of a list."""
