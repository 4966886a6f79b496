"""Acts on many deliveries: first exactly what would happen, one confirm, then how far it is, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from broker.domain.delivery import DeliveryState
from broker.errors import InvalidValue
from broker.web import security
from broker.web.access import TheOperator, TheViewer
from broker.web.delivery_filters import TheFilters, filters_in
from broker.web.pages import Id, Text, TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.web.viewing import TheViewing
from broker.workflow.bulk import Wanted
from broker.workflow.bulk_port import BulkOperation, BulkState
from broker.workflow.delivery_filters import PRIORITIES, DeliveryFilters, priority_named
from broker.workflow.operations import Act, takes_kind
from broker.workflow.preview import SENDS
from broker.workflow.selection import Selection

router = APIRouter()
Fields = Annotated[dict[str, str], Depends(security.form_of)]
MAX_REASON = 500
_OPEN = {
    state.value for state in (DeliveryState.COLLECTING, DeliveryState.PENDING, DeliveryState.IN_PROGRESS)
}
WORDS = {
    Act.RETRY: ("Retry", "retried", "Retry deliveries"),
    Act.CANCEL: ("Cancel", "cancelled", "Cancel deliveries"),
    Act.RELEASE: ("Send now", "sent without waiting for more", "Send deliveries now"),
    Act.RETARGET: ("Send elsewhere", "sent elsewhere", "Send deliveries elsewhere"),
    Act.PRIORITY: ("Change the priority of", "given another priority", "Change the priority of deliveries"),
}
"""What a button says before the number, what happens to them, and the act by itself."""


@dataclass(frozen=True, slots=True)
class Reverse:
    """What brings back what an operation did, as far as the world allows."""

    label: str
    link: str


@router.get("/deliveries/review", include_in_schema=False)
def review(
    request: Request,
    _: TheOperator,
    seen: TheViewing,
    board: TheDashboard,
    pages: ThePages,
    filters: TheFilters,
    do: Text = "retry",
    which: Text = "",
    to: Text = "",
    priority: Text = "",
) -> Response:
    """Say exactly what would happen; nothing has happened yet."""
    if filters.study:
        seen.opened(study=filters.study)
    if which == "ticked" and not filters.ids:
        return _show(request, pages, board, filters, do, to, priority, problem="No delivery is ticked.")
    chosen = filters if which == "ticked" else _without_ids(filters) if which == "all" else filters
    return _show(request, pages, board, chosen, do, to, priority)


@router.post("/operations")
def start(request: Request, board: TheDashboard, pages: ThePages, _: TheOperator, fields: Fields) -> Response:
    """Do what was confirmed: the first slice at once, the rest behind."""
    filters = filters_in(fields)
    do, to, priority = fields.get("do", ""), fields.get("to", ""), fields.get("priority", "")
    reason = fields.get("reason", "").replace("\x00", "").strip()
    try:
        if len(reason) > MAX_REASON:
            raise InvalidValue(f"reason: at most {MAX_REASON} characters", field="reason")
        up_to, expected = int(fields.get("up_to", "")), int(fields.get("expected", "0"))
    except InvalidValue as error:
        return _show(
            request, pages, board, filters, do, to, priority, problem=str(error), reason=reason[:MAX_REASON]
        )
    except ValueError:
        return _show(request, pages, board, filters, do, to, priority, problem="The form is not complete.")
    try:
        wanted = _wanted(
            board,
            filters,
            do,
            to,
            priority,
            actor=request.state.who.name,
            up_to=up_to,
            reason=reason,
            expected=expected,
        )
        operation = board.actions.start(wanted)
    except InvalidValue as error:
        return _show(request, pages, board, filters, do, to, priority, problem=str(error), reason=reason)
    board.actions.advance(operation)
    return RedirectResponse(f"/operations/{operation}", status_code=303)


@router.get("/operations")
def operations(
    request: Request,
    _: TheViewer,
    board: TheDashboard,
    pages: ThePages,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> Response:
    """List what people did to many deliveries, newest first."""
    lines = board.reports.operations(before=before, limit=51)
    return pages.render(
        request,
        "operations.html",
        lines=lines[:50],
        older=lines[49].id if len(lines) > 50 else None,
        words=WORDS_BY_NAME,
    )


@router.get("/operations/{operation_id}")
def operation(
    request: Request, _: TheViewer, seen: TheViewing, board: TheDashboard, pages: ThePages, operation_id: Id
) -> Response:
    """Show one: how far it is, what was left alone and why, and the way back."""
    values = _values(board, operation_id)
    seen.selected([values["line"].selection])
    return pages.render(request, "operation.html", **values)


@router.get("/operations/{operation_id}/live", include_in_schema=False)
def live(request: Request, _: TheViewer, board: TheDashboard, pages: ThePages, operation_id: Id) -> Response:
    """Answer the part that changes."""
    return pages.render(request, "operation_live.html", **_values(board, operation_id))


@router.post("/operations/{operation_id}/stop")
def stop(board: TheDashboard, operation_id: Id, who: TheOperator) -> Response:
    """Do no more of it; what is done stays done."""
    board.actions.stop(operation_id, actor=who.name)
    return RedirectResponse(f"/operations/{operation_id}", status_code=303)


WORDS_BY_NAME = {act.value: words for act, words in WORDS.items()}


def act_named(name: str) -> Act:
    """Answer an act by its name. Raises InvalidValue."""
    try:
        return Act(name)
    except ValueError:
        raise InvalidValue(f"do: one of {', '.join(act.value for act in Act)}", field="do") from None


def _wanted(
    board: Dashboard,
    filters: DeliveryFilters,
    do: str,
    to: str,
    priority: str,
    *,
    actor: str,
    up_to: int | None = None,
    reason: str = "",
    expected: int = 0,
) -> Wanted:
    act = act_named(do)
    return Wanted(
        act,
        filters.selection(now=board.clock.now(), zone=board.zone, up_to=up_to),
        actor,
        reason=reason or None,
        to=to or None if act is Act.RETARGET else None,
        priority=priority_named(priority) if act is Act.PRIORITY else None,
        expected=expected,
    )


def _show(
    request: Request,
    pages: ThePages,
    board: Dashboard,
    filters: DeliveryFilters,
    do: str,
    to: str,
    priority: str,
    *,
    problem: str = "",
    reason: str = "",
) -> Response:
    told, act = None, Act.RETRY
    try:
        wanted = _wanted(board, filters, do, to, priority, actor=request.state.who.name)
        act = wanted.act
        needs_more = (act is Act.RETARGET and not to) or (act is Act.PRIORITY and not priority)
        if not needs_more:
            told = board.actions.preview(wanted)
    except InvalidValue as error:
        problem = problem or str(error)
    lines = board.reports.destinations(now=board.clock.now())
    # Where it goes now or next: whoever presses the button must not wonder why nothing moves.
    goes_to = () if told is None or act not in SENDS else (to,) if act is Act.RETARGET else told.destinations
    facts = [found for line in lines if (found := board.destination(line.destination)) is not None]
    return pages.render(
        request,
        "review.html",
        status_code=422 if problem else 200,
        problem=problem,
        told=told,
        act=act.value,
        words=WORDS[act],
        given=filters.given(),
        to=to,
        priority=priority,
        reason=reason,
        priorities=list(PRIORITIES),
        held=[line for line in lines if line.destination in goes_to and line.state != "up"],
        targets=[fact.name for fact in facts if _could_take(fact.kind, filters, board)],
    )


def _could_take(kind: str, filters: DeliveryFilters, board: Dashboard) -> bool:
    source = board.destination(filters.destination) if filters.destination else None
    return source is None or (source.name != "" and takes_kind(kind, source.kind))


def _without_ids(filters: DeliveryFilters) -> DeliveryFilters:
    return filters_in({name: value for name, value in filters.given().items() if name != "ids"})


def _values(board: Dashboard, operation_id: int) -> dict[str, Any]:
    line = board.reports.operation(operation_id)
    counts = board.reports.counts(Selection(operation=operation_id))
    waits_for = {count.destination for count in counts if count.state in _OPEN}
    destinations = board.reports.destinations(now=board.clock.now()) if waits_for else ()
    return {
        "line": line,
        "became": {
            state.value: sum(count.deliveries for count in counts if count.state == state.value)
            for state in DeliveryState
        },
        "still": sum(count.deliveries for count in counts if count.state in _OPEN),
        "held": [one for one in destinations if one.destination in waits_for and one.state != "up"],
        "words": WORDS[Act(line.act)],
        "running": line.state is BulkState.RUNNING,
        "share": min(1.0, (line.changed + line.skipped) / max(1, line.expected, line.changed + line.skipped)),
        "reverses": () if line.state is BulkState.RUNNING or not line.changed else _reverses(line),
    }


def _reverses(line: BulkOperation) -> tuple[Reverse, ...]:
    its = f"/deliveries/review?operation={line.id}"
    match Act(line.act):
        case Act.CANCEL:
            return (Reverse("Take it back: retry what was cancelled", f"{its}&do=retry&state=CANCELLED"),)
        case Act.RETRY | Act.RELEASE:
            return (Reverse("Cancel what is not delivered yet", f"{its}&do=cancel"),)
        case Act.RETARGET:
            return (
                Reverse("Send to the first destination after all", f"{its}&do=retry&state=CANCELLED"),
                Reverse("Cancel what is not delivered elsewhere yet", f"{its}&do=cancel"),
            )
        case Act.PRIORITY:
            return (Reverse("Make them routine again", f"{its}&do=priority&priority=routine"),)
