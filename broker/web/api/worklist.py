"""Scheduled procedure steps as JSON."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from broker.web.access import TheViewer
from broker.web.api.reading import ApiPage, rows
from broker.web.pages import Text, TheDashboard
from broker.web.viewing import TheViewing

router = APIRouter()


@router.get("/api/worklist")
def worklist(
    board: TheDashboard,
    _: TheViewer,
    seen: TheViewing,
    page: ApiPage,
    modality: Text = "",
    station: Text = "",
    status: Text = "",
    q: Text = "",
) -> list[dict[str, Any]]:
    """List scheduled procedure steps."""
    lines = board.reports.worklist(
        modality=modality or None,
        station=station or None,
        status=status or None,
        text=q or None,
        page=page,
    )
    seen.listed(lines, searched=q)
    return rows(lines)
