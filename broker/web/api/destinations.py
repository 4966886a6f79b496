"""Destinations as JSON: how each is, its test, and holding it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from broker.web.access import TheOperator, TheViewer, Who
from broker.web.api.instants import Instant
from broker.web.api.once import OnceRoute, TheKey
from broker.web.api.reading import TheWhole
from broker.web.pages import Name, TheDashboard
from broker.web.ports import Dashboard, DestinationFacts
from broker.web.viewing import TheViewing
from broker.workflow.destination_view import (
    DestinationView,
    LastTest,
    destination_line,
    last_test,
    read_destination,
)
from broker.workflow.holds import Hold
from broker.workflow.idempotency import RequestKey
from broker.workflow.reports_port import DestinationLine

router = APIRouter(route_class=OnceRoute)


class HoldRequest(BaseModel):
    """Why a destination is held, and until when."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] = ""
    until: Instant | None = None


@dataclass(frozen=True, slots=True)
class DestinationAnswer:
    """One destination."""

    destination: DestinationView
    facts: DestinationFacts | None
    """What the site file says; null: it is not in there any more."""


@router.get("/api/destinations")
def destinations(board: TheDashboard, _: TheViewer, part: TheWhole) -> list[DestinationLine]:
    """List destinations with their queues."""
    lines = board.reports.destinations(now=board.clock.now())
    return part.part(lines, lambda line: line.destination)


@router.get("/api/destinations/{name}")
def destination(board: TheDashboard, _: TheViewer, seen: TheViewing, name: Name) -> DestinationAnswer:
    """Answer one: its queue, rate by half hours, errors of a day, last tries, last test, and settings in force."""
    view = read_destination(board.reports, name, now=board.clock.now())
    seen.listed(view.conversation)  # what a peer answered may name the patient
    return DestinationAnswer(view, board.destination(name))


@router.get("/api/destinations/{name}/test")
def tested(board: TheDashboard, _: TheViewer, name: Name) -> LastTest:
    """Answer how the last test of a destination stands."""
    _line(board, name)
    return last_test(board.reports, name, now=board.clock.now())


@router.post("/api/destinations/{name}/test", status_code=202)
def test(board: TheDashboard, name: Name, who: TheOperator, key: TheKey) -> LastTest:
    """Begin to talk to it (C-ECHO, printer status, write, connect); GET tells what came of it."""
    _line(board, name)
    with board.actions.requests.begun(key):
        board.actions.test(name, actor=who.name)
    return last_test(board.reports, name, now=board.clock.now())


@router.post("/api/destinations/{name}/pause")
def pause(
    board: TheDashboard, name: Name, who: TheOperator, key: TheKey, hold: HoldRequest | None = None
) -> DestinationLine:
    """Stop sending; what is on its way arrives, what comes waits."""
    board.actions.pause(name, _hold(board, hold, key, who))
    return _line(board, name)


@router.post("/api/destinations/{name}/drain")
def drain(
    board: TheDashboard, name: Name, who: TheOperator, key: TheKey, hold: HoldRequest | None = None
) -> DestinationLine:
    """Send what waits, hold what comes."""
    board.actions.drain(name, _hold(board, hold, key, who))
    return _line(board, name)


@router.post("/api/destinations/{name}/resume")
def resume(board: TheDashboard, name: Name, who: TheOperator, key: TheKey) -> DestinationLine:
    """Let a destination go on."""
    board.actions.resume(name, actor=who.name, key=key)
    return _line(board, name)


def _hold(board: Dashboard, hold: HoldRequest | None, key: RequestKey | None, who: Who) -> Hold:
    if hold is None:
        return Hold(who.name, key=key)
    until = hold.until
    if until is not None and until.tzinfo is None:
        until = until.replace(tzinfo=board.zone)
    return Hold(who.name, hold.reason.strip(), until, key=key)


def _line(board: Dashboard, name: str) -> DestinationLine:
    return destination_line(board.reports, name, now=board.clock.now())
