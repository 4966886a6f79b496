"""Scheduled procedure steps as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from broker.web.access import TheViewer
from broker.web.api.reading import ApiPage, rows
from broker.web.pages import Text, TheDashboard
from broker.web.viewing import TheViewing
from broker.workflow.worklist_board import BoardFilters

router = APIRouter()


@router.get("/api/worklist")
def worklist(
    board: TheDashboard,
    _: TheViewer,
    seen: TheViewing,
    page: ApiPage,
    *,
    date: Annotated[str, Query(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = "",
    after: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    modality: Text = "",
    station: Text = "",
    status: Text = "",
    q: Text = "",
) -> list[dict[str, Any]]:
    """List scheduled procedure steps; `after` is the step the slice before ended with, and costs less than `offset`."""
    if after is not None:
        wanted = BoardFilters(date.replace("-", ""), modality, station, status, q)
        lines = board.reports.board(wanted, after=after, limit=page.limit)
    else:
        lines = board.reports.worklist(
            date=date.replace("-", "") or None,
            modality=modality or None,
            station=station or None,
            status=status or None,
            text=q or None,
            page=page,
        )
    seen.listed(lines, searched=q)
    return rows(lines)
