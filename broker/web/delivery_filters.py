"""The filters of deliveries in a URL and in a form: the same for the list, the review before an act, and the API."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query
from pydantic import AfterValidator

from broker.web.pages import Text, without_nul
from broker.workflow.delivery_filters import MAX_IDS, DeliveryFilters


def filters_of(
    state: Text = "",
    destination: Text = "",
    cause: Text = "",
    route: Text = "",
    study: Text = "",
    age: Text = "",
    since: Text = "",
    until: Text = "",
    operation: Text = "",
    ids: Annotated[
        list[Annotated[str, AfterValidator(without_nul)]] | None, Query(max_length=MAX_IDS)
    ] = None,
) -> DeliveryFilters:
    """Read the filters of a URL."""
    numbers = ",".join(ids or ())
    return DeliveryFilters(state, destination, cause, route, study, age, since, until, operation, numbers)


TheFilters = Annotated[DeliveryFilters, Depends(filters_of)]


def filters_in(fields: dict[str, str]) -> DeliveryFilters:
    """Read the filters of a form."""
    known = DeliveryFilters.__dataclass_fields__
    return DeliveryFilters(
        **{name: without_nul(value) for name, value in fields.items() if name in known and name != "up_to"}
    )
