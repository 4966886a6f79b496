"""Received studies as JSON, what happened to them and why they went where they went."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from broker.web.access import TheViewer
from broker.web.api.reading import ApiPage, rows
from broker.web.pages import Name, Text, TheDashboard
from broker.web.viewing import TheViewing

router = APIRouter()


@router.get("/api/studies")
def studies(
    board: TheDashboard, _: TheViewer, seen: TheViewing, page: ApiPage, state: Text = "", q: Text = ""
) -> list[dict[str, Any]]:
    """List received studies."""
    lines = board.reports.studies(state=state or None, text=q or None, page=page)
    seen.listed(lines, searched=q)
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
