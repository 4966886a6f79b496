"""Orders as JSON, and what happened to them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from broker.web.access import TheViewer
from broker.web.api.reading import ApiPage, Limit, Offset, rows
from broker.web.pages import Id, Text, TheDashboard
from broker.web.searching import Chosen, NothingSoughtByUrl, Sought
from broker.web.viewing import TheViewing
from broker.workflow.entries import Asked, asked_like, values_of
from broker.workflow.reports_port import Page

router = APIRouter()


class OrderSearch(BaseModel):
    """Which orders of a patient, or with an accession, placer or filler number."""

    model_config = ConfigDict(extra="forbid")

    q: Sought
    status: Chosen = ""
    incomplete: bool = False
    limit: Limit = 50
    offset: Offset = 0


@router.get("/api/orders")
def orders(
    board: TheDashboard,
    _: TheViewer,
    _plain: NothingSoughtByUrl,
    seen: TheViewing,
    page: ApiPage,
    *,
    incomplete: bool = False,
    status: Text = "",
) -> list[dict[str, Any]]:
    """List orders."""
    lines = board.reports.orders(status=status or None, incomplete=incomplete, page=page)
    seen.listed(lines)
    return rows(lines)


@router.post("/api/orders/search")
def search_orders(
    board: TheDashboard, _: TheViewer, seen: TheViewing, wanted: OrderSearch
) -> list[dict[str, Any]]:
    """List the orders of a patient (part of the name or id), or with an accession, placer or filler number."""
    lines = board.reports.orders(
        status=wanted.status or None,
        incomplete=wanted.incomplete,
        text=wanted.q or None,
        page=Page(wanted.limit, wanted.offset),
    )
    seen.listed(lines, searched=wanted.q)
    return rows(lines)


@router.get("/api/orders/{order_id}")
def order(board: TheDashboard, _: TheViewer, seen: TheViewing, order_id: Id) -> dict[str, Any]:
    """Answer one order."""
    line = board.reports.order(order_id)
    seen.opened(order=order_id)
    return asdict(line)


@router.get("/api/orders/{order_id}/timeline")
def order_timeline(board: TheDashboard, _: TheViewer, seen: TheViewing, order_id: Id) -> list[dict[str, Any]]:
    """Answer what happened to one order."""
    entries = board.reports.order_timeline(order_id)
    seen.opened(order=order_id)
    return rows(entries)


@router.get("/api/orders/{order_id}/entry")
def entry(board: TheDashboard, _: TheViewer, seen: TheViewing, order_id: Id) -> list[dict[str, Any]]:
    """Answer every value scanners are told of an order, with its source."""
    board.reports.order(order_id)
    seen.opened(order=order_id)
    return rows(values_of([found for found, _ in board.reports.order_entries(order_id)]))


@router.get("/api/orders/{order_id}/sights")
def sights(
    board: TheDashboard,
    _: TheViewer,
    seen: TheViewing,
    order_id: Id,
    device: Text,
    *,
    station: bool | None = None,
    modality: bool | None = None,
    today: bool | None = None,
) -> list[dict[str, Any]]:
    """Answer whether a device would be shown an order now, and why not; it asks as it last did, unless told."""
    board.reports.order(order_id)
    seen.opened(order=order_id)
    usual = asked_like(board.reports.last_query(device))
    asked = Asked(
        usual.own_station if station is None else station,
        usual.own_modality if modality is None else modality,
        usual.today if today is None else today,
    )
    return rows(board.insight.sights(order_id, device, asked))
