"""Deliveries as JSON, and acting on one; acts on many are in operations."""

from __future__ import annotations

from fastapi import APIRouter

from broker.web.access import TheOperator, TheViewer, Who
from broker.web.api.delivery_filters import TheSelection
from broker.web.api.once import OnceRoute, TheKey
from broker.web.api.reading import TheIds, TheNumbered, TheWhole
from broker.web.pages import Id, TheDashboard
from broker.web.ports import Dashboard
from broker.web.viewing import TheViewing, Viewing
from broker.workflow.delivery_reports import CauseLine, ItemLine
from broker.workflow.idempotency import RequestKey
from broker.workflow.operations import Act, Asked
from broker.workflow.reports_port import DeliveryLine, TimelineEntry

router = APIRouter(route_class=OnceRoute)


@router.get("/api/deliveries")
def deliveries(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheIds, selected: TheSelection
) -> list[DeliveryLine]:
    """List deliveries, newest first."""
    selection = selected.filters().selection(now=board.clock.now(), zone=board.zone)
    lines = board.reports.select_deliveries(selection, before=part.after_id, limit=part.most)
    shown = part.shown(lines, lambda line: line.id)
    seen.listed(shown)
    return shown


@router.get("/api/deliveries/causes")
def causes(board: TheDashboard, _: TheViewer, part: TheWhole, selected: TheSelection) -> list[CauseLine]:
    """Group the dead by cause and destination, the largest group first, with what to do about each."""
    selection = selected.filters().selection(now=board.clock.now(), zone=board.zone)
    return part.part(board.reports.causes(selection), lambda line: f"{line.cause} {line.destination}")


# As a number: what else stands there is another operation.
@router.get("/api/deliveries/{delivery_id:int}")
def delivery(board: TheDashboard, _: TheViewer, seen: TheViewing, delivery_id: Id) -> DeliveryLine:
    """Answer one delivery."""
    return _shown(board, seen, delivery_id)


@router.get("/api/deliveries/{delivery_id}/timeline")
def timeline(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheNumbered, delivery_id: Id
) -> list[TimelineEntry]:
    """Answer what happened to one delivery, oldest first."""
    _shown(board, seen, delivery_id)
    return part.part(board.reports.delivery_events(delivery_id))


@router.get("/api/deliveries/{delivery_id}/items")
def items(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheIds, delivery_id: Id
) -> list[ItemLine]:
    """List the images of a delivery and what became of each."""
    _shown(board, seen, delivery_id)
    lines = board.reports.items_behind(delivery_id, item=part.after_id or 0, limit=part.most)
    return part.shown(lines, lambda line: line.item)


@router.post("/api/deliveries/{delivery_id}/retry")
def retry(
    board: TheDashboard, delivery_id: Id, who: TheOperator, seen: TheViewing, key: TheKey
) -> DeliveryLine:
    """Try a delivery again now; answers it as it then stands."""
    _act(board, delivery_id, Act.RETRY, who, key)
    return _shown(board, seen, delivery_id)


@router.post("/api/deliveries/{delivery_id}/cancel")
def cancel(
    board: TheDashboard, delivery_id: Id, who: TheOperator, seen: TheViewing, key: TheKey
) -> DeliveryLine:
    """Cancel a delivery; answers it as it then stands."""
    _act(board, delivery_id, Act.CANCEL, who, key)
    return _shown(board, seen, delivery_id)


@router.post("/api/deliveries/{delivery_id}/release")
def release(
    board: TheDashboard, delivery_id: Id, who: TheOperator, seen: TheViewing, key: TheKey
) -> DeliveryLine:
    """Send what has been collected, without waiting for more; answers it as it then stands."""
    _act(board, delivery_id, Act.RELEASE, who, key)
    return _shown(board, seen, delivery_id)


def _act(board: Dashboard, delivery_id: int, act: Act, who: Who, key: RequestKey | None) -> None:
    board.actions.act(delivery_id, Asked(act, who.name, key=key))


def _shown(board: Dashboard, seen: Viewing, delivery_id: int) -> DeliveryLine:
    line = board.reports.delivery(delivery_id)
    seen.opened(delivery=delivery_id, study=line.study_instance_uid)
    return line
