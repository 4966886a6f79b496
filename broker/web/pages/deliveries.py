"""Deliveries: what waits, what is dead and why, with retry and cancel."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from broker.web import security
from broker.web.pages import ROWS, Id, Name, Text, TheDashboard, ThePage, ThePages

router = APIRouter()
Checked = Annotated[None, Depends(security.check_token)]
ACTOR = "dashboard"
"""Until there is a log-in, the page itself acts."""


@router.get("/deliveries")
def deliveries(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    page: ThePage,
    state: Text = "",
    destination: Text = "",
    study: Text = "",
) -> Response:
    """List deliveries, newest first."""
    lines = board.reports.deliveries(
        state=state or None, destination=destination or None, study_instance_uid=study or None, page=page
    )
    filters = {"state": state, "destination": destination, "study": study}
    return pages.render(
        request,
        "deliveries.html",
        lines=lines[:ROWS],
        more=len(lines) > ROWS,
        page=page.offset // ROWS + 1,
        filters=filters,
        destinations=board.reports.destinations(now=board.clock.now()),
    )


@router.get("/deliveries/{delivery_id}")
def delivery(request: Request, board: TheDashboard, pages: ThePages, delivery_id: Id) -> Response:
    """Show one delivery and its attempts."""
    return pages.render(
        request,
        "delivery.html",
        line=board.reports.delivery(delivery_id),
        entries=board.reports.delivery_events(delivery_id),
        destinations=board.reports.destinations(now=board.clock.now()),
    )


@router.post("/deliveries/{delivery_id}/retry")
def retry(board: TheDashboard, delivery_id: Id, _: Checked) -> Response:
    """Try again now what has not been delivered."""
    board.actions.retry(delivery_id, actor=ACTOR)
    return RedirectResponse(f"/deliveries/{delivery_id}", status_code=303)


@router.post("/deliveries/{delivery_id}/cancel")
def cancel(board: TheDashboard, delivery_id: Id, _: Checked) -> Response:
    """Decide not to send it; the images stay."""
    board.actions.cancel(delivery_id, actor=ACTOR)
    return RedirectResponse(f"/deliveries/{delivery_id}", status_code=303)


@router.post("/destinations/{name}/pause")
def pause(board: TheDashboard, name: Name, _: Checked) -> Response:
    """Hold a destination; its deliveries wait."""
    board.actions.pause(name, actor=ACTOR)
    return _back_to(name)


@router.post("/destinations/{name}/resume")
def resume(board: TheDashboard, name: Name, _: Checked) -> Response:
    """Let a paused destination go on."""
    board.actions.resume(name, actor=ACTOR)
    return _back_to(name)


def _back_to(destination: str) -> Response:
    return RedirectResponse(f"/deliveries?destination={quote(destination, safe='')}", status_code=303)
