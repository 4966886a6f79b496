"""The filters of deliveries as they stand in a URL: the same for the list, the review before an act, and the API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Annotated

from fastapi import Depends, Query
from pydantic import AfterValidator

from broker.domain.causes import BY_NAME
from broker.domain.delivery import DeliveryState
from broker.errors import InvalidValue
from broker.web.pages import Text, without_nul
from broker.workflow.selection import Selection

MAX_IDS = 500
AGES = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "4h": timedelta(hours=4),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
}
"""How old at least."""


@dataclass(frozen=True, slots=True)
class DeliveryFilters:
    """What was asked for, as it was typed."""

    state: str = ""
    destination: str = ""
    cause: str = ""
    route: str = ""
    study: str = ""
    age: str = ""
    since: str = ""
    until: str = ""
    operation: str = ""
    ids: str = ""
    """Numbers with commas."""

    def given(self) -> dict[str, str]:
        """Answer what is not empty, for links and forms."""
        names = (
            "state", "destination", "cause", "route", "study", "age", "since", "until", "operation", "ids",
        )  # fmt: skip
        return {name: value for name in names if (value := getattr(self, name))}

    def selection(self, *, now: datetime, zone: tzinfo, up_to: int | None = None) -> Selection:
        """Answer which deliveries are meant. Raises InvalidValue, which says what is wrong and where."""
        until = instant("until", self.until, zone)
        if self.age:
            if self.age not in AGES:
                raise InvalidValue(f"age: one of {', '.join(AGES)}", field="age")
            before = now - AGES[self.age]
            until = before if until is None else min(until, before)
        if self.cause and self.cause not in BY_NAME:
            raise InvalidValue(f"cause: one of {', '.join(BY_NAME)}", field="cause")
        return Selection(
            state=_state(self.state),
            destination=self.destination or None,
            cause=self.cause or None,
            route=self.route or None,
            study_instance_uid=self.study.strip() or None,
            since=instant("since", self.since, zone),
            until=until,
            operation=_number("operation", self.operation),
            ids=_numbers(self.ids),
            up_to=up_to,
        )


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


def _state(text: str) -> DeliveryState | None:
    if not text:
        return None
    found = DeliveryState.__members__.get(text.strip().upper())
    if found is None:
        raise InvalidValue(f"state: one of {', '.join(DeliveryState.__members__)}", field="state")
    return found


def instant(name: str, text: str, zone: tzinfo) -> datetime | None:
    """Read an instant that was typed in the site's time. Raises InvalidValue."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidValue(f"{name}: a date, or a date and time: 2026-11-21T07:30", field=name) from None
    return at if at.tzinfo else at.replace(tzinfo=zone)


def _number(name: str, text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidValue(f"{name}: a whole number", field=name)
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > MAX_IDS:
        raise InvalidValue(f"ids: at most {MAX_IDS} at once; use the filters", field="ids")
    return tuple(sorted({_number("ids", part) or 0 for part in parts}))
