"""HL7 messages as JSON."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from broker.web.api.reading import ApiPage, rows
from broker.web.pages import Text, TheDashboard

router = APIRouter()


@router.get("/api/messages")
def messages(board: TheDashboard, page: ApiPage, outcome: Text = "", q: Text = "") -> list[dict[str, Any]]:
    """List inbound HL7 messages."""
    return rows(board.reports.messages(outcome=outcome or None, text=q or None, page=page))
