"""Destinations: how each is, its test, its pause and drain, its settings, its rate, its errors, its conversation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from broker.errors import InvalidValue, NotFound
from broker.web import security
from broker.web.access import TheOperator, TheViewer
from broker.web.delivery_filters import instant
from broker.web.pages import Name, TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.web.viewing import TheViewing, Viewing
from broker.workflow.delivery_reports import CheckLine, RateBin
from broker.workflow.holds import Hold
from broker.workflow.selection import Selection

router = APIRouter()
Fields = Annotated[dict[str, str], Depends(security.form_of)]
BIN_S = 1800
BINS = 48
MAX_REASON = 500


@router.get("/destinations")
def destinations(request: Request, _: TheViewer, board: TheDashboard, pages: ThePages) -> Response:
    """List destinations with their queues."""
    lines = board.reports.destinations(now=board.clock.now())
    return pages.render(request, "destinations.html", lines=lines)


@router.get("/destinations/{name}")
def destination(
    request: Request, _: TheViewer, seen: TheViewing, board: TheDashboard, pages: ThePages, name: Name
) -> Response:
    """Show one destination."""
    return pages.render(request, "destination.html", **_values(board, name, seen))


@router.get("/destinations/{name}/test", include_in_schema=False)
def tested(request: Request, _: TheViewer, board: TheDashboard, pages: ThePages, name: Name) -> Response:
    """Answer how the test of a destination stands, for the page to put in place."""
    check = board.reports.last_check(name)
    return pages.render(
        request, "destination_test.html", name=name, check=check, testing=is_running(board, check)
    )


@router.post("/destinations/{name}/test")
def test(board: TheDashboard, name: Name, who: TheOperator) -> Response:
    """Talk to it: C-ECHO, printer status or a connection; the page shows what comes of it."""
    board.actions.test(name, actor=who.name)
    return _back_to(name, "#test")


@router.post("/destinations/{name}/pause")
def pause(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    name: Name,
    _: TheOperator,
    seen: TheViewing,
    fields: Fields,
) -> Response:
    """Stop sending; what is on its way arrives, what comes waits."""
    return _hold(request, board, pages, seen, name, fields, act="pause")


@router.post("/destinations/{name}/drain")
def drain(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    name: Name,
    _: TheOperator,
    seen: TheViewing,
    fields: Fields,
) -> Response:
    """Send what waits, hold what comes."""
    return _hold(request, board, pages, seen, name, fields, act="drain")


@router.post("/destinations/{name}/resume")
def resume(board: TheDashboard, name: Name, who: TheOperator) -> Response:
    """Let a destination go on."""
    board.actions.resume(name, actor=who.name)
    return _back_to(name)


def is_running(board: Dashboard, check: CheckLine | None) -> bool:
    """Answer whether a test still runs; one whose process was lost has ended with its deadline."""
    if check is None or check.said.get("state") != "running":
        return False
    deadline = check.said.get("deadline_s")
    longest = timedelta(seconds=float(deadline) if isinstance(deadline, int | float) else 60)
    return board.clock.now() - check.at < longest + timedelta(seconds=5)


def _hold(
    request: Request,
    board: Dashboard,
    pages: ThePages,
    seen: Viewing,
    name: str,
    fields: dict[str, str],
    *,
    act: str,
) -> Response:
    reason, until = fields.get("reason", "").replace("\x00", "").strip(), fields.get("until", "").strip()
    try:
        if len(reason) > MAX_REASON:
            raise InvalidValue(f"reason: at most {MAX_REASON} characters", field="reason")
        hold = Hold(request.state.who.name, reason, instant("until", until, board.zone))
        if act == "drain":
            board.actions.drain(name, hold)
        else:
            board.actions.pause(name, hold)
    except InvalidValue as error:
        said = (
            str(error)
            if error.field is None or str(error).startswith(error.field)
            else f"{error.field}: {error}"
        )
        values = _values(board, name, seen) | {"problem": said, "reason": reason[:MAX_REASON], "until": until}
        return pages.render(request, "destination.html", status_code=422, **values)
    return _back_to(name)


def _values(board: Dashboard, name: str, seen: Viewing) -> dict[str, Any]:
    now = board.clock.now()
    lines = {line.destination: line for line in board.reports.destinations(now=now)}
    if name not in lines:
        raise NotFound("There is no such destination.")
    since = _since(now)
    check = board.reports.last_check(name)
    conversation = board.reports.conversation(name)
    seen.listed(conversation)  # what a peer answered may name the patient
    return {
        "line": lines[name],
        "facts": board.destination(name),
        "bins": bins(board.reports.rate(name, since=since, bin_s=BIN_S), since=since),
        "failures": board.reports.failures(name, since=now - timedelta(days=1)),
        "conversation": conversation,
        "groups": board.reports.causes(Selection(destination=name)),
        "speed": board.reports.speed(name),
        "check": check,
        "testing": is_running(board, check),
        "name": name,
        "problem": "",
        "reason": "",
        "until": "",
    }


def _since(now: datetime) -> datetime:
    """Answer the beginning of the first bin of the curve."""
    begun = now.timestamp() // BIN_S * BIN_S
    return datetime.fromtimestamp(begun - (BINS - 1) * BIN_S, now.tzinfo)


def bins(found: Sequence[RateBin], *, since: datetime) -> list[RateBin]:
    """Fill in the bins in which nothing was delivered."""
    known = {round((one.at - since).total_seconds() // BIN_S): one for one in found}
    return [
        known.get(number, RateBin(since + timedelta(seconds=number * BIN_S), 0, 0)) for number in range(BINS)
    ]


def _back_to(name: str, part: str = "") -> Response:
    return RedirectResponse(f"/destinations/{quote(name, safe='')}{part}", status_code=303)
