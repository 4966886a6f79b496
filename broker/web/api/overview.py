"""How things stand, and what needs a person."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from broker.web.access import TheViewer
from broker.web.pages import TheDashboard
from broker.web.pages.overview import situation

router = APIRouter()


@router.get("/api/overview")
def overview(board: TheDashboard, _: TheViewer) -> dict[str, Any]:
    """Answer everything the overview shows, the most harmful trouble first."""
    return asdict(situation(board))
