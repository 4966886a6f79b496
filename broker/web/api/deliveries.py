"""Deliveries and destinations as JSON, and acting on deliveries."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from broker.web.access import TheOperator, TheViewer
from broker.web.api.operations import TheKey, key_of
from broker.web.api.reading import ApiPage, rows
from broker.web.pages import Id, Text, TheDashboard
from broker.web.ports import Dashboard
from broker.web.viewing import TheViewing, Viewing
from broker.workflow.operations import Act, Asked

router = APIRouter()


@router.get("/api/deliveries")
def deliveries(
    board: TheDashboard,
    _: TheViewer,
    seen: TheViewing,
    page: ApiPage,
    state: Text = "",
    destination: Text = "",
    study: Text = "",
) -> list[dict[str, Any]]:
    """List deliveries."""
    lines = board.reports.deliveries(
        state=state or None, destination=destination or None, study_instance_uid=study or None, page=page
    )
    seen.listed(lines)
    return rows(lines)


@router.get("/api/deliveries/{delivery_id}")
def delivery(board: TheDashboard, _: TheViewer, seen: TheViewing, delivery_id: Id) -> dict[str, Any]:
    """Answer one delivery."""
    return _shown(board, seen, delivery_id)


@router.post("/api/deliveries/{delivery_id}/retry")
def retry(
    board: TheDashboard, delivery_id: Id, who: TheOperator, seen: TheViewing, key: TheKey = None
) -> dict[str, Any]:
    """Try a delivery again now; answers it as it then stands."""
    once = key_of(key, f"retry {delivery_id}", who)
    board.actions.act(delivery_id, Asked(Act.RETRY, who.name, key=once))
    return _shown(board, seen, delivery_id)


@router.post("/api/deliveries/{delivery_id}/cancel")
def cancel(
    board: TheDashboard, delivery_id: Id, who: TheOperator, seen: TheViewing, key: TheKey = None
) -> dict[str, Any]:
    """Cancel a delivery; answers it as it then stands."""
    once = key_of(key, f"cancel {delivery_id}", who)
    board.actions.act(delivery_id, Asked(Act.CANCEL, who.name, key=once))
    return _shown(board, seen, delivery_id)


@router.get("/api/destinations")
def destinations(board: TheDashboard, _: TheViewer) -> list[dict[str, Any]]:
    """List destinations with their queues."""
    return rows(board.reports.destinations(now=board.clock.now()))


def _shown(board: Dashboard, seen: Viewing, delivery_id: int) -> dict[str, Any]:
    line = board.reports.delivery(delivery_id)
    seen.opened(delivery=delivery_id, study=line.study_instance_uid)
    return asdict(line)
