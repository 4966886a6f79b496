"""Acts on many deliveries and holds of destinations as JSON; an `Idempotency-Key` makes asking twice harmless."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from broker.domain.delivery import Priority
from broker.web.access import TheOperator, TheViewer, Who
from broker.web.delivery_filters import DeliveryFilters
from broker.web.pages import Id, Name, TheDashboard
from broker.web.ports import Dashboard
from broker.web.viewing import TheViewing, Viewing
from broker.workflow.bulk import Wanted
from broker.workflow.holds import Hold
from broker.workflow.idempotency import RequestKey, request_key
from broker.workflow.operations import Act
from broker.workflow.ports import BulkOperation

router = APIRouter()
TheKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]
Short = Annotated[str, Field(max_length=128, pattern=r"^[^\x00]*$")]


class ManyDeliveries(BaseModel):
    """An act on everything that fits; without any filter, on everything."""

    model_config = ConfigDict(extra="forbid")

    act: Literal["retry", "cancel", "release", "retarget", "priority"]
    state: Short = ""
    destination: Short = ""
    cause: Short = ""
    route: Short = ""
    study: Short = ""
    age: Short = ""
    since: Short = ""
    until: Short = ""
    operation: Annotated[int, Field(ge=1, lt=10**18)] | None = None
    ids: Annotated[list[Annotated[int, Field(ge=1, lt=10**18)]], Field(max_length=500)] = []
    to: Short = ""
    """retarget: the other destination."""
    priority: Literal["urgent", "high", "routine", "low"] | None = None
    reason: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] = ""


class HoldRequest(BaseModel):
    """Why a destination is held, and until when."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] = ""
    until: Annotated[datetime, Field(strict=False)] | None = None


def key_of(value: str | None, asked: str, who: Who) -> RequestKey | None:
    """Make a key of the header, if it was sent."""
    return None if value is None else request_key(value, actor=who.name, asked=asked)


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
    key: TheKey = None,
) -> dict[str, Any]:
    """Begin an act on many; it is worked off behind this answer."""
    wanted = _wanted(board, many, who, key=key_of(key, f"operations {many.model_dump_json()}", who))
    operation = board.actions.start(wanted)
    response.headers["Location"] = f"/api/operations/{operation}"
    return _told(board, seen, operation)


@router.get("/api/operations")
def operations(
    board: TheDashboard,
    _: TheViewer,
    seen: TheViewing,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> list[dict[str, Any]]:
    """List acts on many, newest first; `before` is the id of the last one seen."""
    lines = board.reports.operations(before=before, limit=limit)
    seen.selected(line.selection for line in lines)
    return [_line_of(line) for line in lines]


@router.get("/api/operations/{operation_id}")
def operation(board: TheDashboard, _: TheViewer, seen: TheViewing, operation_id: Id) -> dict[str, Any]:
    """Answer how far an act on many is."""
    return _told(board, seen, operation_id)


@router.post("/api/operations/{operation_id}/stop")
def stop(board: TheDashboard, operation_id: Id, who: TheOperator, seen: TheViewing) -> dict[str, Any]:
    """Do no more of it; what is done stays done."""
    board.actions.stop(operation_id, actor=who.name)
    return _told(board, seen, operation_id)


@router.post("/api/destinations/{name}/pause")
def pause(
    board: TheDashboard, name: Name, who: TheOperator, hold: HoldRequest | None = None, key: TheKey = None
) -> dict[str, Any]:
    """Stop sending; what is on its way arrives, what comes waits."""
    board.actions.pause(name, _hold(board, hold, key_of(key, f"pause {name} {hold}", who), who))
    return _line(board, name)


@router.post("/api/destinations/{name}/drain")
def drain(
    board: TheDashboard, name: Name, who: TheOperator, hold: HoldRequest | None = None, key: TheKey = None
) -> dict[str, Any]:
    """Send what waits, hold what comes."""
    board.actions.drain(name, _hold(board, hold, key_of(key, f"drain {name} {hold}", who), who))
    return _line(board, name)


@router.post("/api/destinations/{name}/resume")
def resume(board: TheDashboard, name: Name, who: TheOperator, key: TheKey = None) -> dict[str, Any]:
    """Let a destination go on."""
    board.actions.resume(name, actor=who.name, key=key_of(key, f"resume {name}", who))
    return _line(board, name)


def _wanted(board: Dashboard, many: ManyDeliveries, who: Who, *, key: RequestKey | None = None) -> Wanted:
    filters = DeliveryFilters(
        **many.model_dump(
            include={"state", "destination", "cause", "route", "study", "age", "since", "until"}
        ),
        operation="" if many.operation is None else str(many.operation),
        ids=",".join(str(one) for one in many.ids),
    )
    return Wanted(
        Act(many.act),
        filters.selection(now=board.clock.now(), zone=board.zone),
        who.name,
        reason=many.reason or None,
        to=many.to or None,
        priority=None if many.priority is None else Priority[many.priority.upper()],
        key=key,
    )


def _hold(board: Dashboard, hold: HoldRequest | None, key: RequestKey | None, who: Who) -> Hold:
    if hold is None:
        return Hold(who.name, key=key)
    until = hold.until
    if until is not None and until.tzinfo is None:
        until = until.replace(tzinfo=board.zone)
    return Hold(who.name, hold.reason.strip(), until, key=key)


def _told(board: Dashboard, seen: Viewing, operation_id: int) -> dict[str, Any]:
    line = board.reports.operation(operation_id)
    seen.selected([line.selection])
    return _line_of(line)


def _line_of(operation: BulkOperation) -> dict[str, Any]:
    return {
        **asdict(operation),
        "selection": operation.selection.stored(),
        "state": operation.state.value,
    }


def _line(board: Dashboard, name: str) -> dict[str, Any]:
    lines = board.reports.destinations(now=board.clock.now())
    return next(asdict(line) for line in lines if line.destination == name)
