"""Received studies as JSON, what happened to them and why they went where they went."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from broker.web.access import TheViewer
from broker.web.api.reading import ApiPage, rows
from broker.web.pages import Name, Text, TheDashboard

router = APIRouter()


@router.get("/api/studies")
def studies(
    board: TheDashboard, _: TheViewer, page: ApiPage, state: Text = "", q: Text = ""
) -> list[dict[str, Any]]:
    """List received studies."""
    return rows(board.reports.studies(state=state or None, text=q or None, page=page))


@router.get("/api/studies/{study_instance_uid}/timeline")
def study_timeline(board: TheDashboard, _: TheViewer, study_instance_uid: Name) -> list[dict[str, Any]]:
    """Answer what happened to one study."""
    return rows(board.reports.study_timeline(study_instance_uid))


@router.get("/api/studies/{study_instance_uid}/routes")
def study_routes(board: TheDashboard, _: TheViewer, study_instance_uid: Name) -> list[dict[str, Any]]:
    """Answer why each route did or did not take the study."""
    return rows(board.explain(study_instance_uid))
