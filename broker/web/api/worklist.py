"""Scheduled procedure steps as JSON."""

from __future__ import annotations

from datetime import date as Date  # noqa: N812 - a field is called date

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from broker.domain.steps import StepStatus
from broker.web.access import TheViewer
from broker.web.api.instants import Day, WrittenDay
from broker.web.api.reading import TheIds
from broker.web.pages import Text, TheDashboard
from broker.web.searching import Chosen, NothingSoughtByUrl, Sought
from broker.web.viewing import TheViewing
from broker.workflow.reports_port import WorklistLine
from broker.workflow.worklist_board import BoardFilters

router = APIRouter()


class WorklistSearch(BaseModel):
    """Which steps of a patient, or with an accession number or Study Instance UID."""

    model_config = ConfigDict(extra="forbid")

    q: Sought
    date: WrittenDay = None
    modality: Chosen = ""
    station: Chosen = ""
    status: StepStatus | None = None


@router.get("/api/worklist")
def worklist(
    board: TheDashboard,
    _: TheViewer,
    _plain: NothingSoughtByUrl,
    seen: TheViewing,
    part: TheIds,
    *,
    date: Day = None,
    modality: Text = "",
    station: Text = "",
    status: StepStatus | None = None,
) -> list[WorklistLine]:
    """List scheduled procedure steps by their start; without a date the latest come first."""
    filters = BoardFilters(_day(date), modality, station, status.value if status else "")
    lines = board.reports.board(filters, after=part.after_id, limit=part.most)
    shown = part.shown(lines, lambda line: line.step)
    seen.listed(shown)
    return shown


@router.post("/api/worklist/search")
def search_worklist(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheIds, wanted: WorklistSearch
) -> list[WorklistLine]:
    """List the steps of a patient (part of the name or id), or with an accession number or Study Instance UID."""
    filters = BoardFilters(
        _day(wanted.date),
        wanted.modality,
        wanted.station,
        wanted.status.value if wanted.status else "",
        wanted.q,
    )
    lines = board.reports.board(filters, after=part.after_id, limit=part.most)
    shown = part.shown(lines, lambda line: line.step)
    seen.listed(shown, searched=wanted.q)
    return shown


def _day(date: Date | None) -> str:
    return f"{date:%Y%m%d}" if date else ""
