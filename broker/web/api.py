"""The same lists and actions as JSON, and /healthz. Errors are problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse

from broker.web import security
from broker.web.pages import Id, Name, Text, TheDashboard
from broker.workflow.reports_port import MAX_PAGE, Page

router = APIRouter()
Checked = Annotated[None, Depends(security.check_token)]


def _page(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50, offset: Annotated[int, Query(ge=0)] = 0
) -> Page:
    return Page(limit=limit, offset=offset)


ApiPage = Annotated[Page, Depends(_page)]


def _rows(lines: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(line) for line in lines]


@router.get("/healthz")
def healthz(board: TheDashboard) -> JSONResponse:
    """Answer 200 when every listener serves, else 503 with the part that does not."""
    parts = board.health()
    ok = all(part.ok for part in parts)
    body = {"ok": ok, "parts": {part.name: {"ok": part.ok, "detail": part.detail} for part in parts}}
    return JSONResponse(body, status_code=200 if ok else 503)


@router.get("/api/worklist")
def worklist(
    board: TheDashboard,
    page: ApiPage,
    modality: Text = "",
    station: Text = "",
    status: Text = "",
    q: Text = "",
) -> list[dict[str, Any]]:
    """List scheduled procedure steps."""
    return _rows(
        board.reports.worklist(
            modality=modality or None,
            station=station or None,
            status=status or None,
            text=q or None,
            page=page,
        )
    )


@router.get("/api/orders")
def orders(
    board: TheDashboard, page: ApiPage, *, incomplete: bool = False, status: Text = "", q: Text = ""
) -> list[dict[str, Any]]:
    """List orders."""
    return _rows(
        board.reports.orders(status=status or None, incomplete=incomplete, text=q or None, page=page)
    )


@router.get("/api/orders/{order_id}")
def order(board: TheDashboard, order_id: Id) -> dict[str, Any]:
    """Answer one order."""
    return asdict(board.reports.order(order_id))


@router.get("/api/orders/{order_id}/timeline")
def order_timeline(board: TheDashboard, order_id: Id) -> list[dict[str, Any]]:
    """Answer what happened to one order."""
    return _rows(board.reports.order_timeline(order_id))


@router.get("/api/messages")
def messages(board: TheDashboard, page: ApiPage, outcome: Text = "", q: Text = "") -> list[dict[str, Any]]:
    """List inbound HL7 messages."""
    return _rows(board.reports.messages(outcome=outcome or None, text=q or None, page=page))


@router.get("/api/studies")
def studies(board: TheDashboard, page: ApiPage, state: Text = "", q: Text = "") -> list[dict[str, Any]]:
    """List received studies."""
    return _rows(board.reports.studies(state=state or None, text=q or None, page=page))


@router.get("/api/studies/{study_instance_uid}/timeline")
def study_timeline(board: TheDashboard, study_instance_uid: Name) -> list[dict[str, Any]]:
    """Answer what happened to one study."""
    return _rows(board.reports.study_timeline(study_instance_uid))


@router.get("/api/studies/{study_instance_uid}/routes")
def study_routes(board: TheDashboard, study_instance_uid: Name) -> list[dict[str, Any]]:
    """Answer why each route did or did not take the study."""
    return _rows(board.explain(study_instance_uid))


@router.get("/api/deliveries")
def deliveries(
    board: TheDashboard, page: ApiPage, state: Text = "", destination: Text = "", study: Text = ""
) -> list[dict[str, Any]]:
    """List deliveries."""
    return _rows(
        board.reports.deliveries(
            state=state or None, destination=destination or None, study_instance_uid=study or None, page=page
        )
    )


@router.get("/api/deliveries/{delivery_id}")
def delivery(board: TheDashboard, delivery_id: Id) -> dict[str, Any]:
    """Answer one delivery."""
    return asdict(board.reports.delivery(delivery_id))


@router.post("/api/deliveries/{delivery_id}/retry")
def retry(board: TheDashboard, delivery_id: Id, _: Checked) -> dict[str, Any]:
    """Try a delivery again now; answers it as it then stands."""
    board.actions.retry(delivery_id, actor="api")
    return asdict(board.reports.delivery(delivery_id))


@router.post("/api/deliveries/{delivery_id}/cancel")
def cancel(board: TheDashboard, delivery_id: Id, _: Checked) -> dict[str, Any]:
    """Cancel a delivery; answers it as it then stands."""
    board.actions.cancel(delivery_id, actor="api")
    return asdict(board.reports.delivery(delivery_id))


@router.get("/api/destinations")
def destinations(board: TheDashboard) -> list[dict[str, Any]]:
    """List destinations with their queues."""
    return _rows(board.reports.destinations(now=board.clock.now()))
