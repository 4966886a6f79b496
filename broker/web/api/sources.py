"""Who talks to us, and who is silent that usually is not."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from fastapi import APIRouter

from broker.web.access import TheViewer
from broker.web.api.reading import TheWhole, rows
from broker.web.pages import TheDashboard
from broker.workflow.silence import SourceState, judge_sources

router = APIRouter()


@router.get("/api/sources")
def sources(board: TheDashboard, _: TheViewer, part: TheWhole) -> list[dict[str, Any]]:
    """List senders and devices by what their silence is worth, the silent first."""
    states = judge_sources(board.reports.sources(), now=board.clock.now(), zone=board.zone)
    return rows(part.part(states, _place))


def _place(state: SourceState) -> str:
    """Tell one from another; names come from peers, may be long and hold anything."""
    known_by = [state.kind, state.name, state.facility, state.peer]
    return sha256(json.dumps(known_by).encode()).hexdigest()
