"""Alerts and maintenance as JSON."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from broker.domain.alerts import Alert
from broker.errors import InvalidValue
from broker.web.access import TheOperator, TheViewer
from broker.web.pages import Id, TheDashboard
from broker.web.ports import Dashboard
from broker.workflow.alert_operations import Planned

router = APIRouter()
Short = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


class MaintenanceRequest(BaseModel):
    """On what work goes on, why, and until when."""

    model_config = ConfigDict(extra="forbid")

    until: Annotated[datetime, Field(strict=False)]
    begin: Annotated[datetime, Field(strict=False)] | None = None
    """Absent: now."""
    about: Short = ""
    """Destination, sender, device or role by its name; absent: everything."""
    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


@router.get("/api/alerts")
def alerts(_: TheViewer, board: TheDashboard) -> list[dict[str, Any]]:
    """List what is open, the worst first; pending ones have not lasted long enough to be told."""
    return _told(board, board.reports.open_alerts())


@router.get("/api/alerts/over")
def over(
    _: TheViewer,
    board: TheDashboard,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> list[dict[str, Any]]:
    """List what is over, newest first; `before` is the id of the last one seen."""
    return _told(board, board.reports.recent_alerts(before=before, limit=limit))


@router.get("/api/alerts/{alert_id}")
def alert(_: TheViewer, board: TheDashboard, alert_id: Id) -> dict[str, Any]:
    """Answer one, with what was told of it."""
    return _told(board, [board.reports.alert(alert_id)])[0]


@router.post("/api/alerts/{alert_id}/acknowledge")
def acknowledge(board: TheDashboard, alert_id: Id, who: TheOperator) -> dict[str, Any]:
    """Take an alert in hand: no reminder comes."""
    board.alerts.acknowledge(alert_id, actor=who.name)
    return _told(board, [board.reports.alert(alert_id)])[0]


@router.get("/api/maintenance")
def maintenance(_: TheViewer, board: TheDashboard) -> list[dict[str, Any]]:
    """List the maintenance that is not over."""
    return [asdict(window) for window in board.reports.maintenance_windows(now=board.clock.now())]


@router.post("/api/maintenance", status_code=201)
def plan(board: TheDashboard, wanted: MaintenanceRequest, who: TheOperator) -> dict[str, int]:
    """Say that work goes on: nobody is told about it while it lasts."""
    for name in ("until", "begin"):
        value: datetime | None = getattr(wanted, name)
        if value is not None and value.tzinfo is None:
            raise InvalidValue(f"{name}: needs an offset, like 2026-11-21T19:00:00+01:00", field=name)
    planned = Planned(wanted.until, wanted.reason, who.name, wanted.about, wanted.begin)
    return {"id": board.alerts.plan(planned)}


@router.post("/api/maintenance/{window_id}/end")
def end(board: TheDashboard, window_id: Id, who: TheOperator) -> dict[str, bool]:
    """End a maintenance, or call it off; `ended` is false when it was over."""
    return {"ended": board.alerts.end(window_id, actor=who.name)}


def _told(board: Dashboard, found: Any) -> list[dict[str, Any]]:
    alerts_found: list[Alert] = list(found)
    notices = board.reports.notices([one.id for one in alerts_found])
    return [
        {**asdict(one), "notices": [asdict(line) for line in notices.get(one.id, [])]} for one in alerts_found
    ]
