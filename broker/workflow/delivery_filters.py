"""The filters of deliveries as people and programs write them: in a URL, a form, a call or on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from broker.domain.causes import BY_NAME
from broker.domain.delivery import DeliveryState, Priority
from broker.errors import InvalidValue
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
PRIORITIES = {
    "urgent": Priority.URGENT,
    "high": Priority.HIGH,
    "routine": Priority.ROUTINE,
    "low": Priority.LOW,
}


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
        return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):  # the first and the last day of the calendar have no UTC everywhere
        raise InvalidValue(f"{name}: a date, or a date and time: 2026-11-21T07:30", field=name) from None


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


def priority_named(name: str) -> Priority | None:
    """Answer a priority by its word; None when none is named. Raises InvalidValue."""
    if not name:
        return None
    if name not in PRIORITIES:
        raise InvalidValue(f"priority: one of {', '.join(PRIORITIES)}", field="priority")
    return PRIORITIES[name]
