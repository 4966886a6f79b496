"""What happened since the last shift."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from broker.web.access import TheViewer
from broker.web.api.instants import Instant
from broker.web.pages import TheDashboard
from broker.workflow.handover import read_handover, read_since

router = APIRouter()


@router.get("/api/handover")
def handover(
    board: TheDashboard, _: TheViewer, since: Annotated[Instant | None, Query()] = None
) -> dict[str, Any]:
    """Answer the handover since an instant (ISO 8601; without a zone: the site's), twelve hours when none is given."""
    begin = read_since(since.isoformat() if since else "", clock=board.clock)
    return asdict(read_handover(board.reports, since=begin, clock=board.clock, zone=board.zone))
