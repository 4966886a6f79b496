"""The overview: one sentence first, then who serves, what waits and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from broker.web.pages import TheDashboard, ThePages
from broker.web.ports import Dashboard, HealthPart
from broker.web.rendering import words
from broker.workflow.reports_port import DayCounts, DestinationLine

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Trouble:
    """A sentence about harm, with the page that mends it."""

    weight: int
    meaning: str
    headline: str
    detail: str
    link: str


@router.get("/")
def overview(request: Request, board: TheDashboard, pages: ThePages) -> Response:
    """Show the overview."""
    return pages.render(request, "overview.html", **_values(board))


@router.get("/overview/live")
def live(request: Request, board: TheDashboard, pages: ThePages) -> Response:
    """Answer the part that changes, for the page to put in place."""
    return pages.render(request, "overview_live.html", **_values(board))


def _values(board: Dashboard) -> dict[str, Any]:
    now = board.clock.now()
    midnight = board.clock.local_now().replace(hour=0, minute=0, second=0, microsecond=0)
    day = board.reports.day(since=midnight)
    destinations = board.reports.destinations(now=now)
    health = board.health()
    return {
        "day": day,
        "destinations": destinations,
        "health": health,
        "troubles": troubles(day, destinations, health, now=now),
    }


def troubles(
    day: DayCounts, destinations: Sequence[DestinationLine], health: Sequence[HealthPart], *, now: datetime
) -> list[Trouble]:
    """Say what is wrong, patients who wait first."""
    found = [
        Trouble(0, "failing", f"{part.name} does not serve", part.detail, "/")
        for part in health
        if not part.ok
    ]
    for line in destinations:
        age = now - line.oldest if line.oldest else timedelta(0)
        link = f"/deliveries?destination={line.destination}"
        waits = f"{line.waiting} deliveries wait, the oldest {words(age)}"
        if line.state == "paused":
            found.append(
                Trouble(1, "failing", f"{line.destination} is paused · {waits}", line.reason or "", link)
            )
        elif line.state == "failing" and line.waiting:
            found.append(
                Trouble(2, "failing", f"{line.destination} is failing · {waits}", line.reason or "", link)
            )
        elif line.waiting and age > timedelta(minutes=15):
            found.append(
                Trouble(4, "attention", f"{line.destination} is slow · {waits}", line.reason or "", link)
            )
        if line.dead:
            found.append(
                Trouble(
                    3,
                    "failing",
                    f"{line.dead} deliveries to {line.destination} need a person",
                    "They are not tried again by themselves.",
                    f"{link}&state=DEAD",
                )
            )
    counted = [
        (day.parked_messages, "orders are parked", "Understood, but in conflict with what is known.", "/messages?outcome=parked"),
        (day.refused_messages, "messages were refused", "The sender was told what is wrong.", "/messages?outcome=refused"),
        (day.incomplete_orders, "orders are incomplete", "Not on any worklist until completed.", "/orders?incomplete=true"),
        (day.unrouted_studies, "studies matched no route", "They are kept; nothing was sent.", "/images?state=UNROUTED"),
    ]  # fmt: skip
    found += [
        Trouble(5, "attention", f"{count} {what}", why, link) for count, what, why, link in counted if count
    ]
    return sorted(found, key=lambda trouble: trouble.weight)
