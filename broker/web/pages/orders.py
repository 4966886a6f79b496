"""Orders: all, or those that are incomplete; and one order's timeline."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from broker.web.pages import ROWS, Id, Text, TheDashboard, ThePage, ThePages

router = APIRouter()


@router.get("/orders")
def orders(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    page: ThePage,
    *,
    incomplete: bool = False,
    status: Text = "",
    q: Text = "",
) -> Response:
    """List orders, newest change first."""
    lines = board.reports.orders(status=status or None, incomplete=incomplete, text=q or None, page=page)
    filters = {"incomplete": "true" if incomplete else "", "status": status, "q": q}
    return pages.render(
        request,
        "orders.html",
        lines=lines[:ROWS],
        more=len(lines) > ROWS,
        page=page.offset // ROWS + 1,
        filters=filters,
    )


@router.get("/orders/{order_id}")
def order(request: Request, board: TheDashboard, pages: ThePages, order_id: Id) -> Response:
    """Show what happened to one order, oldest first."""
    return pages.render(
        request,
        "order.html",
        line=board.reports.order(order_id),
        entries=board.reports.order_timeline(order_id),
    )
