"""Orders: all, or those that are incomplete; one order's timeline, its entry, and who would see it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from broker.web.access import TheViewer
from broker.web.pages import ROWS, Id, Text, TheDashboard, ThePage, ThePages
from broker.web.ports import Dashboard
from broker.web.rendering import Pages
from broker.web.searching import NothingSoughtByUrl, TheSearch
from broker.web.viewing import TheViewing, Viewing
from broker.workflow.entries import Asked, asked_like, values_of
from broker.workflow.reports_port import Page

router = APIRouter()


@router.get("/orders")
def orders(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    _: TheViewer,
    _plain: NothingSoughtByUrl,
    seen: TheViewing,
    page: ThePage,
    *,
    incomplete: bool = False,
    status: Text = "",
) -> Response:
    """List orders, newest change first."""
    filters = {"incomplete": "true" if incomplete else "", "status": status, "q": ""}
    return _list(request, board, pages, seen, filters, page)


@router.post("/orders")
def search(
    request: Request, board: TheDashboard, pages: ThePages, _: TheViewer, seen: TheViewing, form: TheSearch
) -> Response:
    """List the orders of a patient, or with an accession number."""
    if not form.text:
        return form.without_search("/orders", "incomplete", "status")
    incomplete = "true" if form.field("incomplete") == "true" else ""
    filters = {"incomplete": incomplete, "status": form.field("status"), "q": form.text}
    return _list(request, board, pages, seen, filters, form.page())


def _list(
    request: Request, board: Dashboard, pages: Pages, seen: Viewing, filters: dict[str, str], page: Page
) -> Response:
    lines = board.reports.orders(
        status=filters["status"] or None,
        incomplete=bool(filters["incomplete"]),
        text=filters["q"] or None,
        page=page,
    )
    seen.listed(lines[:ROWS], searched=filters["q"])
    return pages.render(
        request,
        "orders.html",
        lines=lines[:ROWS],
        more=len(lines) > ROWS,
        page=page.offset // ROWS + 1,
        filters=filters,
    )


@router.get("/orders/{order_id}")
def order(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    order_id: Id,
    _: TheViewer,
    seen: TheViewing,
    device: Text = "",
    asks: Annotated[list[str] | None, Query(max_length=4)] = None,
) -> Response:
    """Show what happened to one order, oldest first; with `device`, whether that one would be shown it now."""
    line = board.reports.order(order_id)
    seen.opened(order=order_id)
    entries = [entry for entry, _ in board.reports.order_entries(order_id)]
    last, asked, sights = None, Asked(), None
    if device:
        last = board.reports.last_query(device)
        asked = (
            asked_like(last)
            if asks is None
            else Asked("station" in asks, "modality" in asks, "today" in asks)
        )
        sights = board.insight.sights(order_id, device, asked)
    stations = [station for entry in entries for station in entry.step.station_ae_titles]
    devices = board.insight.devices()
    return pages.render(
        request,
        "order.html",
        line=line,
        entries=board.reports.order_timeline(order_id),
        values=values_of(entries),
        devices=devices,
        device=device or next((name for name in stations if name in devices), ""),
        asked=asked,
        last=last,
        sights=sights,
    )
