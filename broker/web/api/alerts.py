"""Alerts and maintenance as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from broker.domain.alerts import Alert, Maintenance
from broker.errors import InvalidValue
from broker.web.access import TheOperator, TheViewer
from broker.web.api.instants import Instant
from broker.web.api.once import OnceRoute, TheKey
from broker.web.api.reading import TheIds, TheWhole
from broker.web.pages import Id, TheDashboard
from broker.web.ports import Dashboard
from broker.workflow.alert_operations import Planned
from broker.workflow.alerts_port import NoticeLine

router = APIRouter(route_class=OnceRoute)
Short = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


class MaintenanceRequest(BaseModel):
    """On what work goes on, why, and until when."""

    model_config = ConfigDict(extra="forbid")

    until: Instant
    begin: Instant | None = None
    """Absent: now."""
    about: Short = ""
    """Destination, sender, device or role by its name; absent: everything."""
    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


@dataclass(frozen=True, slots=True)
class AlertAnswer(Alert):
    """An alert, with what was told of it."""

    notices: Sequence[NoticeLine] = ()


@router.get("/api/alerts")
def alerts(_: TheViewer, board: TheDashboard, part: TheWhole) -> list[AlertAnswer]:
    """List what is open, the worst first; pending ones have not lasted long enough to be told."""
    return _told(board, part.part(board.reports.open_alerts(), lambda alert: alert.id))


@router.get("/api/alerts/over")
def over(_: TheViewer, board: TheDashboard, part: TheIds) -> list[AlertAnswer]:
    """List what is over, newest first."""
    found = board.reports.recent_alerts(before=part.after_id, limit=part.most)
    return _told(board, part.shown(found, lambda alert: alert.id))


@router.get("/api/alerts/{alert_id:int}")
def alert(_: TheViewer, board: TheDashboard, alert_id: Id) -> AlertAnswer:
    """Answer one, with what was told of it."""
    return _told(board, [board.reports.alert(alert_id)])[0]


@router.post("/api/alerts/{alert_id}/acknowledge")
def acknowledge(board: TheDashboard, alert_id: Id, who: TheOperator, key: TheKey) -> AlertAnswer:
    """Take an alert in hand: no reminder comes."""
    board.alerts.acknowledge(alert_id, actor=who.name, key=key)
    return _told(board, [board.reports.alert(alert_id)])[0]


@router.post("/api/alerts/test")
def test(board: TheDashboard, _: TheOperator, key: TheKey) -> dict[str, str]:
    """Send a test over every channel; answers for each what went wrong, empty where nothing did."""
    with board.actions.requests.begun(key):
        return board.alerts.test()


@router.get("/api/maintenance")
def maintenance(_: TheViewer, board: TheDashboard, part: TheWhole) -> list[Maintenance]:
    """List the maintenance that is not over."""
    windows = board.reports.maintenance_windows(now=board.clock.now())
    return part.part(windows, lambda window: window.id)


@router.post("/api/maintenance", status_code=201)
def plan(board: TheDashboard, wanted: MaintenanceRequest, who: TheOperator, key: TheKey) -> dict[str, int]:
    """Say that work goes on: nobody is told about it while it lasts."""
    for name in ("until", "begin"):
        value: datetime | None = getattr(wanted, name)
        if value is not None and value.tzinfo is None:
            raise InvalidValue(f"{name}: needs an offset, like 2026-11-21T19:00:00+01:00", field=name)
    planned = Planned(wanted.until, wanted.reason, who.name, wanted.about, wanted.begin, key)
    return {"id": board.alerts.plan(planned)}


@router.post("/api/maintenance/{window_id}/end")
def end(board: TheDashboard, window_id: Id, who: TheOperator, key: TheKey) -> dict[str, bool]:
    """End a maintenance, or call it off; `ended` is false when it was over."""
    return {"ended": board.alerts.end(window_id, actor=who.name, key=key)}


def _told(board: Dashboard, found: Sequence[Alert]) -> list[AlertAnswer]:
    notices = board.reports.notices([one.id for one in found])
    return [
        AlertAnswer(**{name: getattr(one, name) for name in Alert.__slots__}, notices=notices.get(one.id, ()))
        for one in found
    ]
