"""Orders as JSON, and what happened to them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, StrictBool

from broker.domain.steps import OrderStatus
from broker.web.access import TheViewer
from broker.web.api.reading import WHERE, Limit, Listing, TheNumbered, TheWhole
from broker.web.pages import Id, Text, TheDashboard
from broker.web.searching import NothingSoughtByUrl, Sought
from broker.web.viewing import TheViewing
from broker.workflow.entries import Asked, EntryValue, Sight, asked_like, values_of
from broker.workflow.reports_port import OrderLine, Page, TimelineEntry

router = APIRouter()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 1, 1, tzinfo=UTC)


class OrderListing(Listing):
    """A part of the orders: begins behind the instant at which one was changed, and its id."""

    def __init__(
        self,
        request: Request,
        response: Response,
        limit: Limit = 50,
        after: Annotated[str, Query(pattern=r"^([0-9]{1,18}~[1-9][0-9]{0,17})?$", description=WHERE)] = "",
    ) -> None:
        super().__init__(request, response, limit, after)

    @property
    def before(self) -> tuple[datetime, int] | None:
        """Answer when the last one of the part before was changed, and its id."""
        if not self.after:
            return None
        passed, _, number = self.after.partition("~")
        span = min(timedelta(microseconds=int(passed)), _LAST - _EPOCH)
        return _EPOCH + span, int(number)


TheOrders = Annotated[OrderListing, Depends()]


class OrderSearch(BaseModel):
    """Which orders of a patient, or with an accession, placer or filler number."""

    model_config = ConfigDict(extra="forbid")

    q: Sought
    status: OrderStatus | None = None
    incomplete: StrictBool = False


@router.get("/api/orders")
def orders(
    board: TheDashboard,
    _: TheViewer,
    _plain: NothingSoughtByUrl,
    seen: TheViewing,
    part: TheOrders,
    *,
    incomplete: bool = False,
    status: OrderStatus | None = None,
) -> list[OrderLine]:
    """List orders, newest change first."""
    lines = board.reports.orders(
        status=status.value if status else None,
        incomplete=incomplete,
        before=part.before,
        page=Page(part.most),
    )
    shown = part.shown(lines, _place)
    seen.listed(shown)
    return shown


@router.post("/api/orders/search")
def search_orders(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheOrders, wanted: OrderSearch
) -> list[OrderLine]:
    """List the orders of a patient (part of the name or id), or with an accession, placer or filler number."""
    lines = board.reports.orders(
        status=wanted.status.value if wanted.status else None,
        incomplete=wanted.incomplete,
        text=wanted.q,
        before=part.before,
        page=Page(part.most),
    )
    shown = part.shown(lines, _place)
    seen.listed(shown, searched=wanted.q)
    return shown


@router.get("/api/orders/{order_id}")
def order(board: TheDashboard, _: TheViewer, seen: TheViewing, order_id: Id) -> OrderLine:
    """Answer one order."""
    line = board.reports.order(order_id)
    seen.opened(order=order_id)
    return line


@router.get("/api/orders/{order_id}/timeline")
def order_timeline(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheNumbered, order_id: Id
) -> list[TimelineEntry]:
    """Answer what happened to one order."""
    entries = board.reports.order_timeline(order_id)
    seen.opened(order=order_id)
    return part.part(entries)


@router.get("/api/orders/{order_id}/entry")
def entry(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheNumbered, order_id: Id
) -> list[EntryValue]:
    """Answer every value scanners are told of an order, with its source."""
    board.reports.order(order_id)
    seen.opened(order=order_id)
    return part.part(values_of([found for found, _ in board.reports.order_entries(order_id)]))


@router.get("/api/orders/{order_id}/sights")
def sights(
    board: TheDashboard,
    _: TheViewer,
    seen: TheViewing,
    part: TheWhole,
    order_id: Id,
    device: Text,
    *,
    station: bool | None = None,
    modality: bool | None = None,
    today: bool | None = None,
) -> list[Sight]:
    """Answer whether a device would be shown an order now, and why not; it asks as it last did, unless told."""
    board.reports.order(order_id)
    seen.opened(order=order_id)
    usual = asked_like(board.reports.last_query(device))
    asked = Asked(
        usual.own_station if station is None else station,
        usual.own_modality if modality is None else modality,
        usual.today if today is None else today,
    )
    return part.part(board.insight.sights(order_id, device, asked), lambda sight: sight.step)


def _place(line: OrderLine) -> str:
    return f"{(line.updated_at - _EPOCH) // timedelta(microseconds=1)}~{line.order_id}"
