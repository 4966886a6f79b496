"""Synthetic exams: run one now, and what became of the last."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from broker.web.access import TheOperator, TheViewer
from broker.web.api.once import OnceRoute, TheKey
from broker.web.api.reading import TheIds
from broker.web.pages import Id, TheDashboard
from broker.workflow.probe_port import ProbeRun

router = APIRouter(route_class=OnceRoute)


@router.get("/api/probe")
def probe_runs(_: TheViewer, board: TheDashboard, part: TheIds) -> list[dict[str, Any]]:
    """List the last synthetic exams, newest first."""
    runs = board.reports.probe_runs(before=part.after_id, limit=part.most)
    return [_said(run) for run in part.shown(runs, lambda run: run.id)]


@router.get("/api/probe/{run}")
def probe_run(_: TheViewer, board: TheDashboard, run: Id) -> dict[str, Any]:
    """Answer one synthetic exam, also while it runs."""
    return _said(board.reports.probe_run(run))


@router.post("/api/probe")
def probe(who: TheOperator, board: TheDashboard, key: TheKey) -> dict[str, Any]:
    """Send a synthetic exam through every hop now; answers when it is over, a minute at most."""
    with board.actions.requests.begun(key):
        return _said(board.probe(who.name))


def _said(run: ProbeRun) -> dict[str, Any]:
    return asdict(run) | {"ok": run.ok, "seconds": round(run.seconds, 3)}
