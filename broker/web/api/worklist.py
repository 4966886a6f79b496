"""Scheduled procedure steps as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from broker.web.access import TheViewer
from broker.web.api.reading import ApiPage, Limit, Offset, rows
from broker.web.pages import Text, TheDashboard
from broker.web.searching import Chosen, NothingSoughtByUrl, Sought
from broker.web.viewing import TheViewing
from broker.workflow.reports_port import Page
from broker.workflow.worklist_board import BoardFilters

router = APIRouter()
DAY = r"^(\d{4}-\d{2}-\d{2})?$"


class WorklistSearch(BaseModel):
    """Which steps of a patient, or with an accession number or Study Instance UID."""

    model_config = ConfigDict(extra="forbid")

    q: Sought
    date: Annotated[str, Field(pattern=DAY)] = ""
    modality: Chosen = ""
    station: Chosen = ""
    status: Chosen = ""
    limit: Limit = 50
    offset: Offset = 0


@router.get("/api/worklist")
def worklist(
    board: TheDashboard,
    _: TheViewer,
    _plain: NothingSoughtByUrl,
    seen: TheViewing,
    page: ApiPage,
    *,
    date: Annotated[str, Query(pattern=DAY)] = "",
    after: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    modality: Text = "",
    station: Text = "",
    status: Text = "",
) -> list[dict[str, Any]]:
    """List scheduled procedure steps; `after` is the step the slice before ended with, and costs less than `offset`."""
    if after is not None:
        wanted = BoardFilters(date.replace("-", ""), modality, station, status)
        lines = board.reports.board(wanted, after=after, limit=page.limit)
    else:
        lines = board.reports.worklist(
            date=date.replace("-", "") or None,
            modality=modality or None,
            station=station or None,
            status=status or None,
            page=page,
        )
    seen.listed(lines)
    return rows(lines)


@router.post("/api/worklist/search")
def search_worklist(
    board: TheDashboard, _: TheViewer, seen: TheViewing, wanted: WorklistSearch
) -> list[dict[str, Any]]:
    """List the steps of a patient (part of the name or id), or with an accession number or Study Instance UID."""
    lines = board.reports.worklist(
        date=wanted.date.replace("-", "") or None,
        modality=wanted.modality or None,
        station=wanted.station or None,
        status=wanted.status or None,
        text=wanted.q or None,
        page=Page(wanted.limit, wanted.offset),
    )
    seen.listed(lines, searched=wanted.q)
    return rows(lines)
