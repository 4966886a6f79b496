"""Alerts: what is wrong and who has it in hand, what was told, and the work that is going on."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from broker.domain.alerts import Alert, AlertState
from broker.errors import BrokerError, InvalidValue
from broker.web import security
from broker.web.access import TheOperator, TheViewer
from broker.web.pages import Id, TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.workflow.alert_operations import Planned
from broker.workflow.delivery_filters import instant

router = APIRouter()
Fields = Annotated[dict[str, str], Depends(security.form_of)]
OLDER = 50
PATH = "/alerts"
_KEPT = ("about", "begin", "until", "reason")


@router.get(PATH)
def alerts(
    request: Request,
    _: TheViewer,
    board: TheDashboard,
    pages: ThePages,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> Response:
    """Show what is open, what is over, and what is worked on."""
    return pages.render(request, "alerts.html", **_values(board, before=before))


@router.post(PATH + "/{alert_id}/acknowledge")
def acknowledge(board: TheDashboard, alert_id: Id, who: TheOperator) -> Response:
    """Take an alert in hand."""
    board.alerts.acknowledge(alert_id, actor=who.name)
    return RedirectResponse(PATH, status_code=303)


@router.post("/maintenance")
def plan(
    request: Request, board: TheDashboard, pages: ThePages, fields: Fields, who: TheOperator
) -> Response:
    """Say that work is going on."""
    typed = {name: fields.get(name, "").replace("\x00", "").strip() for name in _KEPT}
    try:
        ends_at = instant("until", typed["until"], board.zone)
        if ends_at is None:
            raise InvalidValue("until: say when it is over", field="until")
        board.alerts.plan(
            Planned(
                ends_at,
                typed["reason"],
                who.name,
                typed["about"],
                instant("begin", typed["begin"], board.zone),
            )
        )
    except InvalidValue as error:
        shown = {name: text[:500] for name, text in typed.items()}
        values = _values(board) | {"problem": str(error), "typed": shown}
        return pages.render(request, "alerts.html", status_code=422, **values)
    return RedirectResponse(f"{PATH}#maintenance", status_code=303)


@router.post("/maintenance/{window_id}/end")
def end(board: TheDashboard, window_id: Id, who: TheOperator) -> Response:
    """End a maintenance."""
    board.alerts.end(window_id, actor=who.name)
    return RedirectResponse(f"{PATH}#maintenance", status_code=303)


@router.post(PATH + "/test")
def test(request: Request, board: TheDashboard, pages: ThePages, _: TheOperator) -> Response:
    """Send a test over every channel, and show what each says."""
    try:
        said = board.alerts.test()
    except BrokerError as error:
        return pages.render(request, "alerts.html", **(_values(board) | {"problem": str(error)}))
    return pages.render(request, "alerts.html", **(_values(board) | {"tested": said}))


def _values(board: Dashboard, *, before: int | None = None) -> dict[str, Any]:
    now = board.clock.now()
    found = [alert for alert in board.reports.open_alerts() if alert.state is AlertState.RAISED]
    over = board.reports.recent_alerts(before=before, limit=OLDER + 1)
    windows = board.reports.maintenance_windows(now=now)
    shown = over[:OLDER]

    def quieted(alert: Alert) -> bool:
        return any(window.covers(alert, now) for window in windows)

    return {
        "alerts": found,
        "over": shown,
        "older": shown[-1].id if len(over) > OLDER else None,
        "notices": board.reports.notices([alert.id for alert in (*found, *shown)]),
        "windows": windows,
        "quieted": {alert.id for alert in found if quieted(alert)},
        "channels": board.alerts.channel_names,
        "problem": "",
        "tested": {},
        "typed": dict.fromkeys(_KEPT, ""),
    }
