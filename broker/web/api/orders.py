"""Orders as JSON, and what happened to them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from broker.web.api.reading import ApiPage, rows
from broker.web.pages import Id, Text, TheDashboard

router = APIRouter()


@router.get("/api/orders")
def orders(
    board: TheDashboard, page: ApiPage, *, incomplete: bool = False, status: Text = "", q: Text = ""
) -> list[dict[str, Any]]:
    """List orders."""
    return rows(board.reports.orders(status=status or None, incomplete=incomplete, text=q or None, page=page))


@router.get("/api/orders/{order_id}")
def order(board: TheDashboard, order_id: Id) -> dict[str, Any]:
    """Answer one order."""
    return asdict(board.reports.order(order_id))


@router.get("/api/orders/{order_id}/timeline")
def order_timeline(board: TheDashboard, order_id: Id) -> list[dict[str, Any]]:
    """Answer what happened to one order."""
    return rows(board.reports.order_timeline(order_id))
