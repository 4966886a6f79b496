"""The overview: what needs a person first, then today's flow, where it goes, who talks, and what serves."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from broker.web.access import TheViewer
from broker.web.live import LiveOverview, TooManyViewers
from broker.web.pages import TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.web.rendering import Pages
from broker.workflow.situation import Situation, read_situation

router = APIRouter()
SECTIONS = ("troubles", "flow", "destinations", "sources", "parts")
"""Each is a template of its own and is renewed by itself."""


def situation(board: Dashboard) -> Situation:
    """Read how things stand now."""
    return read_situation(
        board.reports, health=board.health, resources=board.resources, clock=board.clock, zone=board.zone
    )


def sections(board: Dashboard, pages: Pages) -> dict[str, str]:
    """Render what changes, the same for everybody who looks."""
    now_stands = situation(board)
    made = {name: pages.fragment(f"overview_{name}.html", now_stands=now_stands) for name in SECTIONS}
    return {**made, "clock": pages.fragment("overview_clock.html", now_stands=now_stands)}


@router.get("/")
def overview(request: Request, board: TheDashboard, pages: ThePages, _: TheViewer) -> Response:
    """Show the overview."""
    return pages.render(request, "overview.html", now_stands=situation(board))


@router.get("/overview/live")
def live(request: Request, board: TheDashboard, pages: ThePages, _: TheViewer) -> Response:
    """Answer the part that changes, for a page that cannot be streamed to."""
    return pages.render(request, "overview_live.html", now_stands=situation(board))


@router.get("/needs", include_in_schema=False)
def needs(request: Request, pages: ThePages, _: TheViewer) -> Response:
    """Answer the badges of the rail, for every page to put in place."""
    return pages.render(request, "rail_badges.html")


@router.get("/overview/stream")
async def stream(request: Request, who: TheViewer) -> Response:
    """Send every section of the page when it has changed, and the time every second."""
    viewers: LiveOverview = request.app.state.live
    try:
        viewers.check_room()
    except TooManyViewers:
        # The page asks for itself instead, less often.
        return Response("Too many are looking.", status_code=503, headers={"Retry-After": "30"})
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(viewers.watch(who), media_type="text/event-stream", headers=headers)
