"""The overview: one sentence first, then who serves, what waits and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from broker.domain.spans import words
from broker.web.pages import TheDashboard, ThePages
from broker.web.ports import Dashboard, HealthPart
from broker.web.rendering import counted
from broker.workflow.reports_port import DayCounts, DestinationLine

router = APIRouter()
SLOW = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong, what is known of it, and what to do, with the page that mends it."""

    weight: int
    word: str
    """A state; its meaning chooses mark and colour."""
    headline: str
    detail: str
    action: str
    link: str


@router.get("/")
def overview(request: Request, board: TheDashboard, pages: ThePages) -> Response:
    """Show the overview."""
    return pages.render(request, "overview.html", live=False, **_values(board))


@router.get("/overview/live")
def live(request: Request, board: TheDashboard, pages: ThePages) -> Response:
    """Answer the part that changes, for the page to put in place."""
    return pages.render(request, "overview_live.html", live=True, **_values(board))


def _values(board: Dashboard) -> dict[str, Any]:
    now = board.clock.now()
    midnight = board.clock.local_now().replace(hour=0, minute=0, second=0, microsecond=0)
    day = board.reports.day(since=midnight)
    destinations = board.reports.destinations(now=now)
    health = board.health()
    return {
        "day": day,
        "today": midnight.date().isoformat(),
        "destinations": destinations,
        "health": health,
        "troubles": troubles(day, destinations, health, now=now),
    }


def troubles(
    day: DayCounts, destinations: Sequence[DestinationLine], health: Sequence[HealthPart], *, now: datetime
) -> list[Trouble]:
    """Say what is wrong, patients who wait first."""
    found = [
        Trouble(
            0,
            "down",
            f"The {part.name} role does not serve",
            f"{part.detail}; last seen {words(now - part.beat_at)} ago" if part.beat_at else part.detail,
            "See all parts, then its log; it is restarted by itself.",
            "#parts",
        )
        for part in health
        if not part.ok
    ]
    for line in destinations:
        found += _of_destination(line, now=now)
    found += [
        Trouble(5, word, f"{counted(count, what)} {plural if count != 1 else one}", why, action, link)
        for count, word, what, one, plural, why, action, link in (
            (day.parked_messages, "parked", "message", "is parked", "are parked", "Understood and kept, but in conflict with what is known; nothing was changed.", "Read them and decide with the sender.", "/messages?outcome=parked"),
            (day.refused_messages, "refused", "message", "was refused today", "were refused today", "Each sender was told what is wrong.", "Read the problems and tell the sender's team.", "/messages?outcome=refused"),
            (day.incomplete_orders, "incomplete", "order", "is incomplete", "are incomplete", "No scanner sees these until what is missing has come.", "See what is missing.", "/orders?incomplete=true"),
            (day.unrouted_studies, "UNROUTED", "study", "matched no route", "matched no route", "The images are kept; nothing was sent.", "Open one and read why.", "/images?state=UNROUTED"),
        )
        if count
    ]  # fmt: skip
    return sorted(found, key=lambda trouble: trouble.weight)


def _of_destination(line: DestinationLine, *, now: datetime) -> list[Trouble]:
    age = now - line.oldest if line.oldest else timedelta(0)
    link = f"/deliveries?destination={quote(line.destination, safe='')}"
    waits = (
        f"{counted(line.waiting, 'delivery')} wait{'s' if line.waiting == 1 else ''}, the oldest {words(age)}"
    )
    waits = waits if line.waiting else "nothing waits"
    reason = (line.reason or "").rstrip(".")
    found = []
    if line.state == "paused":
        found.append(
            Trouble(
                1,
                "paused",
                f"{line.destination} is paused: {waits}",
                reason,
                "Mend the reason, then resume it.",
                link,
            )
        )
    elif line.state == "failing" and line.waiting:
        found.append(
            Trouble(
                2,
                "failing",
                f"{line.destination} is failing: {waits}",
                reason,
                "Check that the peer runs; nothing is lost, sending goes on by itself once it answers.",
                link,
            )
        )
    elif line.waiting and age > SLOW:
        found.append(
            Trouble(4, "slow", f"{line.destination} is slow: {waits}", reason, "See its deliveries.", link)
        )
    if line.dead:
        found.append(
            Trouble(
                3,
                "dead",
                f"{counted(line.dead, 'delivery')} to {line.destination} need{'s' if line.dead == 1 else ''} a person",
                "Not tried again by itself." if line.dead == 1 else "Not tried again by themselves.",
                "Read the reason, mend it, then retry or cancel.",
                f"{link}&state=DEAD",
            )
        )
    return found
