"""The synthetic exam: run one now, see each hop as it is taken, and what became of the last ones."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from broker.web.access import TheOperator, TheViewer
from broker.web.pages import Id, TheDashboard, ThePages
from broker.web.ports import Dashboard

router = APIRouter()
SHOWN = 50
GIVEN_UP_AFTER = timedelta(minutes=5)
"""No exam takes as long; whoever ran it is gone."""
HOPS = {
    "order": "Order: HL7 to our listener",
    "worklist": "Worklist: a scanner asks for it",
    "begin": "Begin: MPPS in progress",
    "image": "Image: C-STORE to us",
    "finish": "Finish: MPPS completed",
    "delivery": "Delivery: routed and sent",
}


@router.get("/probe")
def probes(request: Request, _: TheViewer, board: TheDashboard, pages: ThePages) -> Response:
    """List the last synthetic exams."""
    return pages.render(request, "probe.html", runs=board.reports.probe_runs(limit=SHOWN))


@router.post("/probe")
def start(board: TheDashboard, who: TheOperator) -> Response:
    """Send a synthetic exam through every hop, and show it there."""
    return RedirectResponse(f"/probe/{board.start_probe(who.name)}", status_code=303)


@router.get("/probe/{run}")
def probe(request: Request, _: TheViewer, board: TheDashboard, pages: ThePages, run: Id) -> Response:
    """Show one, hop by hop."""
    return pages.render(request, "probe_run.html", **_values(board, run))


@router.get("/probe/{run}/live", include_in_schema=False)
def live(request: Request, _: TheViewer, board: TheDashboard, pages: ThePages, run: Id) -> Response:
    """Answer the part that changes."""
    return pages.render(request, "probe_hops.html", **_values(board, run))


def _values(board: Dashboard, run: int) -> dict[str, Any]:
    found = board.reports.probe_run(run)
    runs = not found.is_over and board.clock.now() - found.started_at < GIVEN_UP_AFTER
    taken = {hop.name: hop for hop in found.hops}
    hops = [(words, taken.get(name)) for name, words in HOPS.items()]
    return {"run": found, "runs": runs, "hops": hops, "next": len(found.hops)}
