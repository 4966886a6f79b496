"""Received studies as JSON, what happened to them and why they went where they went."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from broker.web.access import TheViewer
from broker.web.api.reading import ApiPage, Limit, Offset, rows
from broker.web.pages import Name, Text, TheDashboard
from broker.web.searching import Chosen, NothingSoughtByUrl, Sought
from broker.web.viewing import TheViewing
from broker.workflow.reports_port import Page

router = APIRouter()


class StudySearch(BaseModel):
    """Which studies of a patient, or with an accession number or UID."""

    model_config = ConfigDict(extra="forbid")

    q: Sought
    state: Chosen = ""
    limit: Limit = 50
    offset: Offset = 0


@router.get("/api/studies")
def studies(
    board: TheDashboard,
    _: TheViewer,
    _plain: NothingSoughtByUrl,
    seen: TheViewing,
    page: ApiPage,
    state: Text = "",
) -> list[dict[str, Any]]:
    """List received studies."""
    lines = board.reports.studies(state=state or None, page=page)
    seen.listed(lines)
    return rows(lines)


@router.post("/api/studies/search")
def search_studies(
    board: TheDashboard, _: TheViewer, seen: TheViewing, wanted: StudySearch
) -> list[dict[str, Any]]:
    """List the received studies with a patient id, an accession number or a Study Instance UID."""
    page = Page(wanted.limit, wanted.offset)
    lines = board.reports.studies(state=wanted.state or None, text=wanted.q or None, page=page)
    seen.listed(lines, searched=wanted.q)
    return rows(lines)


@router.get("/api/studies/{study_instance_uid}/timeline")
def study_timeline(
    board: TheDashboard, _: TheViewer, seen: TheViewing, study_instance_uid: Name
) -> list[dict[str, Any]]:
    """Answer what happened to one study."""
    entries = board.reports.study_timeline(study_instance_uid)
    if entries:
        seen.opened(study=study_instance_uid)
    return rows(entries)


@router.get("/api/studies/{study_instance_uid}/routes")
def study_routes(
    board: TheDashboard, _: TheViewer, seen: TheViewing, study_instance_uid: Name
) -> list[dict[str, Any]]:
    """Answer why each route did or did not take the study."""
    verdicts = board.explain(study_instance_uid)
    if verdicts:
        seen.opened(study=study_instance_uid)
    return rows(verdicts)
