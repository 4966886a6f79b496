"""Destinations: how each is, its test, its pause and drain, its settings, its rate, its errors, its conversation."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from broker.errors import InvalidValue
from broker.web import security
from broker.web.access import TheOperator, TheViewer
from broker.web.pages import Name, TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.web.viewing import TheViewing, Viewing
from broker.workflow.delivery_filters import instant
from broker.workflow.destination_view import last_test, read_destination
from broker.workflow.holds import Hold

router = APIRouter()
Fields = Annotated[dict[str, str], Depends(security.form_of)]
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
    test = last_test(board.reports, name, now=board.clock.now())
    return pages.render(
        request, "destination_test.html", name=name, check=test.check, testing=test.is_running
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
    view = read_destination(board.reports, name, now=board.clock.now())
    seen.listed(view.conversation)  # what a peer answered may name the patient
    return {
        "line": view.line,
        "facts": board.destination(name),
        "bins": view.rate,
        "failures": view.failures,
        "conversation": view.conversation,
        "groups": view.causes,
        "speed": view.speed,
        "check": view.test.check,
        "testing": view.test.is_running,
        "name": name,
        "problem": "",
        "reason": "",
        "until": "",
    }


def _back_to(name: str, part: str = "") -> Response:
    return RedirectResponse(f"/destinations/{quote(name, safe='')}{part}", status_code=303)
