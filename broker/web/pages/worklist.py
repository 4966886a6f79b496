"""The worklist: what scanners are offered, and what is under way."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from broker.web.access import TheViewer
from broker.web.pages import ROWS, Text, TheDashboard, ThePage, ThePages
from broker.web.viewing import TheViewing

router = APIRouter()


@router.get("/worklist")
def worklist(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    _: TheViewer,
    seen: TheViewing,
    page: ThePage,
    date: Annotated[str, Query(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = "",
    modality: Text = "",
    station: Text = "",
    status: Text = "",
    q: Text = "",
) -> Response:
    """List steps; filters live in the URL, so that a view can be sent to a colleague."""
    lines = board.reports.worklist(
        date=date.replace("-", "") or None,
        modality=modality.upper() or None,
        station=station.upper() or None,
        status=status or None,
        text=q or None,
        page=page,
    )
    seen.listed(lines[:ROWS], searched=q)
    filters = {"date": date, "modality": modality, "station": station, "status": status, "q": q}
    return pages.render(
        request,
        "worklist.html",
        lines=lines[:ROWS],
        more=len(lines) > ROWS,
        page=page.offset // ROWS + 1,
        filters=filters,
    )
