"""The morning handover: the last shift on one sheet."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter, Request, Response

from broker.errors import InvalidValue
from broker.web.access import TheViewer
from broker.web.pages import Text, TheDashboard, ThePages
from broker.workflow.handover import read_handover, read_since

router = APIRouter()
SPANS = (("8 hours", 8), ("12 hours", 12), ("24 hours", 24), ("the weekend", 64))


@router.get("/handover")
def handover(
    request: Request, _: TheViewer, board: TheDashboard, pages: ThePages, since: Text = ""
) -> Response:
    """Show what happened since the last shift; a mistyped beginning is said and kept."""
    now = board.clock.local_now()
    begins = [
        (name, (now - timedelta(hours=hours)).replace(tzinfo=None).isoformat(timespec="minutes"))
        for name, hours in SPANS
    ]
    try:
        begin, problem = read_since(since, clock=board.clock), ""
    except InvalidValue as error:
        return pages.render(
            request,
            "handover.html",
            status_code=422,
            told=None,
            problem=str(error),
            since=since,
            begins=begins,
        )
    told = read_handover(board.reports, since=begin, clock=board.clock, zone=board.zone)
    span = " – ".join(f"{at.astimezone(board.zone):%a %d %b %Y %H:%M}" for at in (told.since, told.until))
    typed = begin.astimezone(board.zone).replace(tzinfo=None).isoformat(timespec="minutes")
    return pages.render(
        request, "handover.html", told=told, span=span, problem=problem, since=typed, begins=begins
    )
