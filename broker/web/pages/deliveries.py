"""Deliveries: what waits, what is dead and why; one delivery with its tries and images."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from broker.domain.causes import CAUSES, cause_named
from broker.domain.delivery import DeliveryState
from broker.errors import InvalidValue
from broker.web.access import TheOperator, TheViewer, Who
from broker.web.delivery_filters import TheFilters
from broker.web.pages import ROWS, Id, TheDashboard, ThePages
from broker.web.viewing import TheViewing
from broker.workflow.delivery_filters import AGES
from broker.workflow.operations import Act, Asked
from broker.workflow.selection import Selection

router = APIRouter()
Key = Annotated[int | None, Query(ge=0, le=2**63 - 1)]
ITEM_ROWS = 100


@router.get("/deliveries")
def deliveries(
    request: Request,
    _: TheViewer,
    seen: TheViewing,
    board: TheDashboard,
    pages: ThePages,
    filters: TheFilters,
    before: Key = None,
    after: Key = None,
) -> Response:
    """List deliveries, newest first, and the dead grouped by what is to be done about them."""
    problem, selection = "", Selection()
    now = board.clock.now()
    try:
        selection = filters.selection(now=now, zone=board.zone)
    except InvalidValue as error:
        problem = str(error)
    lines = board.reports.select_deliveries(selection, before=before, after=after, limit=ROWS + 1)
    if problem:
        lines = ()
    more = len(lines) > ROWS
    shown = list(lines[-ROWS:] if after is not None else lines[:ROWS])
    seen.listed(shown)
    is_about_dead = selection.state in (None, DeliveryState.DEAD) and not problem
    return pages.render(
        request,
        "deliveries.html",
        status_code=422 if problem else 200,
        problem=problem,
        lines=shown,
        older=shown[-1].id if shown and (more or after is not None) else None,
        newer=shown[0].id if shown and (before is not None or (after is not None and more)) else None,
        filters=filters,
        given=filters.given(),
        groups=board.reports.causes(selection) if is_about_dead else (),
        destinations=board.reports.destinations(now=now),
        causes=[cause.name for cause in CAUSES],
        ages=list(AGES),
        states=[state.value for state in DeliveryState],
    )


@router.get("/deliveries/{delivery_id}")
def delivery(
    request: Request,
    _: TheViewer,
    seen: TheViewing,
    board: TheDashboard,
    pages: ThePages,
    delivery_id: Id,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    """Show one delivery: its tries, its images, what was said on the wire, and why it goes again when."""
    line = board.reports.delivery(delivery_id)
    seen.opened(delivery=delivery_id, study=line.study_instance_uid)
    items = board.reports.items(delivery_id, after=offset, limit=ITEM_ROWS + 1)
    return pages.render(
        request,
        "delivery.html",
        line=line,
        cause=cause_named(line.cause) if line.cause else None,
        entries=board.reports.delivery_events(delivery_id),
        items=items[:ITEM_ROWS],
        offset=offset,
        following=offset + ITEM_ROWS if len(items) > ITEM_ROWS else None,
        destinations=board.reports.destinations(now=board.clock.now()),
    )


@router.post("/deliveries/{delivery_id}/retry")
def retry(board: TheDashboard, delivery_id: Id, who: TheOperator) -> Response:
    """Try again now what has not been delivered."""
    return _act(board, delivery_id, Act.RETRY, who)


@router.post("/deliveries/{delivery_id}/cancel")
def cancel(board: TheDashboard, delivery_id: Id, who: TheOperator) -> Response:
    """Decide not to send it; the images stay, and it can be retried."""
    return _act(board, delivery_id, Act.CANCEL, who)


@router.post("/deliveries/{delivery_id}/release")
def release(board: TheDashboard, delivery_id: Id, who: TheOperator) -> Response:
    """Send what has been collected, without waiting for more."""
    return _act(board, delivery_id, Act.RELEASE, who)


def _act(board: TheDashboard, delivery_id: int, act: Act, who: Who) -> Response:
    board.actions.act(delivery_id, Asked(act, who.name))
    return RedirectResponse(f"/deliveries/{delivery_id}", status_code=303)
