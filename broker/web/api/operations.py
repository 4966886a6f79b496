"""Acts on many deliveries as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import ConfigDict, Field

from broker.web.access import TheOperator, TheViewer, Who
from broker.web.api.delivery_filters import DeliverySelection, Short
from broker.web.api.once import OnceRoute, TheKey
from broker.web.api.reading import TheIds
from broker.web.pages import Id, TheDashboard
from broker.web.ports import Dashboard
from broker.web.viewing import TheViewing, Viewing
from broker.workflow.bulk import Wanted, told_operation
from broker.workflow.delivery_filters import priority_named
from broker.workflow.idempotency import RequestKey
from broker.workflow.operations import Act

router = APIRouter(route_class=OnceRoute)


class ManyDeliveries(DeliverySelection):
    """An act on everything that fits; without any filter, on everything."""

    model_config = ConfigDict(extra="forbid")

    act: Literal["retry", "cancel", "release", "retarget", "priority"]
    to: Short = ""
    """retarget: the other destination."""
    priority: Literal["urgent", "high", "routine", "low"] | None = None
    reason: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] = ""


@router.post("/api/deliveries/preview")
def preview(board: TheDashboard, many: ManyDeliveries, who: TheOperator, seen: TheViewing) -> dict[str, Any]:
    """Tell what an act on many would come to; nothing happens."""
    told = board.actions.preview(_wanted(board, many, who))
    seen.selected([told.selection])
    return {**asdict(told), "selection": told.selection.stored()}


@router.post("/api/operations", status_code=202)
def start(
    board: TheDashboard,
    many: ManyDeliveries,
    response: Response,
    who: TheOperator,
    seen: TheViewing,
    key: TheKey,
) -> dict[str, Any]:
    """Begin an act on many; it is worked off behind this answer."""
    operation = board.actions.start(_wanted(board, many, who, key=key))
    response.headers["Location"] = f"/api/operations/{operation}"
    return _told(board, seen, operation)


@router.get("/api/operations")
def operations(board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheIds) -> list[dict[str, Any]]:
    """List acts on many, newest first."""
    lines = board.reports.operations(before=part.after_id, limit=part.most)
    shown = part.shown(lines, lambda line: line.id)
    seen.selected(line.selection for line in shown)
    return [told_operation(line) for line in shown]


@router.get("/api/operations/{operation_id}")
def operation(board: TheDashboard, _: TheViewer, seen: TheViewing, operation_id: Id) -> dict[str, Any]:
    """Answer how far an act on many is."""
    return _told(board, seen, operation_id)


@router.post("/api/operations/{operation_id}/stop")
def stop(
    board: TheDashboard, operation_id: Id, who: TheOperator, seen: TheViewing, key: TheKey
) -> dict[str, Any]:
    """Do no more of it; what is done stays done."""
    board.actions.stop(operation_id, actor=who.name, key=key)
    return _told(board, seen, operation_id)


def _wanted(board: Dashboard, many: ManyDeliveries, who: Who, *, key: RequestKey | None = None) -> Wanted:
    return Wanted(
        Act(many.act),
        many.filters().selection(now=board.clock.now(), zone=board.zone),
        who.name,
        reason=many.reason or None,
        to=many.to or None,
        priority=priority_named(many.priority or ""),
        key=key,
    )


def _told(board: Dashboard, seen: Viewing, operation_id: int) -> dict[str, Any]:
    line = board.reports.operation(operation_id)
    seen.selected([line.selection])
    return told_operation(line)
