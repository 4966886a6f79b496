"""The worklist board: by day and station, with the states as they are; a day's list for paper."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date as calendar_day
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from broker.errors import InvalidValue
from broker.web.access import TheViewer
from broker.web.pages import ROWS, Text, TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.web.rendering import Pages
from broker.web.searching import NothingSoughtByUrl, TheSearch
from broker.web.viewing import TheViewing, Viewing
from broker.workflow.reports_port import WorklistLine
from broker.workflow.worklist_board import BoardFilters, by_station, is_overdue, is_urgent, waiting_of

router = APIRouter()
MOST_PRINTED = 3000
_SLICE = 500
Day = Annotated[str, Query(pattern=r"^(\d{4}-\d{2}-\d{2}|all)?$")]
After = Annotated[int | None, Query(ge=1, le=2**63 - 1)]


@router.get("/worklist")
def worklist(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    _: TheViewer,
    _plain: NothingSoughtByUrl,
    seen: TheViewing,
    *,
    after: After = None,
    date: Day = "",
    modality: Text = "",
    station: Text = "",
    status: Text = "",
) -> Response:
    """List steps; without any filter today's. Filters live in the URL, so that a view can be sent to a colleague."""
    if not (date or modality or station or status):
        date = board.clock.local_now().strftime("%Y-%m-%d")
    filters = {"date": date, "modality": modality, "station": station, "status": status, "q": ""}
    return _list(request, board, pages, seen, filters, after)


@router.post("/worklist")
def search(
    request: Request, board: TheDashboard, pages: ThePages, _: TheViewer, seen: TheViewing, form: TheSearch
) -> Response:
    """List the steps of a patient, or with an accession number; without a day those of all days."""
    names = ("date", "modality", "station", "status")
    if not form.text:
        return form.without_search("/worklist", *names)
    filters = {name: form.field(name) for name in names} | {"q": form.text}
    return _list(request, board, pages, seen, filters, form.number("after"))


def _list(
    request: Request,
    board: Dashboard,
    pages: Pages,
    seen: Viewing,
    filters: dict[str, str],
    after: int | None,
) -> Response:
    day = _day(filters["date"])
    lines = board.reports.board(
        BoardFilters(
            day.strftime("%Y%m%d") if day else "",
            filters["modality"],
            filters["station"],
            filters["status"],
            filters["q"],
        ),
        after=after,
        limit=ROWS + 1,
    )
    shown = lines[:ROWS]
    seen.listed(shown, searched=filters["q"])
    return pages.render(
        request,
        "worklist.html",
        lines=shown,
        marks=_marks(board, shown),
        more=shown[-1].step if len(lines) > ROWS else None,
        after=after,
        filters=filters,
        day=board.reports.board_day(day.strftime("%Y%m%d")) if day else None,
        days=_days(board, day),
        left=_left(board, day),
    )


@router.get("/worklist/states", include_in_schema=False)
def states(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    _: TheViewer,
    steps: Annotated[str, Query(pattern=r"^\d{1,18}(,\d{1,18}){0,99}$")],
) -> Response:
    """Answer the states of the steps a page shows, for each to be put in its place."""
    lines = board.reports.worklist_steps([int(step) for step in steps.split(",")])
    return pages.render(request, "worklist_states.html", lines=lines, marks=_marks(board, lines))


@router.get("/worklist/print")
def for_paper(
    request: Request, board: TheDashboard, pages: ThePages, _: TheViewer, seen: TheViewing, *, date: Day = ""
) -> Response:
    """Show a day's list by station, to be put on paper before the systems go."""
    day = _day(date) or board.clock.local_now().date()
    wanted, lines = BoardFilters(day.strftime("%Y%m%d")), list[WorklistLine]()
    while len(lines) < MOST_PRINTED:
        part = board.reports.board(wanted, after=lines[-1].step if lines else None, limit=_SLICE)
        lines += part
        if len(part) < _SLICE:
            break
    seen.listed(lines)
    return pages.render(
        request,
        "worklist_print.html",
        day=day,
        steps=len(lines),
        cut=len(lines) >= MOST_PRINTED,
        groups=by_station(lines),
    )


def _day(text: str) -> calendar_day | None:
    """Read a day; None for all of them. Raises InvalidValue."""
    if text in ("", "all"):
        return None
    try:
        return calendar_day.fromisoformat(text)
    except ValueError:
        raise InvalidValue(f"date: {text} is no day.", field="date") from None


def _days(board: Dashboard, day: calendar_day | None) -> list[tuple[str, str, bool]]:
    """Answer the days to go to: name, value of the filter, and whether it is the one shown."""
    today, one = board.clock.local_now().date(), timedelta(days=1)
    near = [("Yesterday", today - one), ("Today", today), ("Tomorrow", today + one)]
    if day is not None and day not in [other for _, other in near]:
        near.append((f"{day:%Y-%m-%d}", day))
    told = [(name, f"{other:%Y-%m-%d}", other == day) for name, other in near]
    return [*told, ("All days", "all", day is None)]


def _left(board: Dashboard, day: calendar_day | None) -> tuple[str, int] | None:
    """Answer, beside today's list, yesterday and how many of its steps have not begun: none is gone at midnight."""
    today = board.clock.local_now().date()
    if day != today:
        return None
    before = today - timedelta(days=1)
    number = waiting_of(board.reports.board_day(before.strftime("%Y%m%d")))
    return (f"{before:%Y-%m-%d}", number) if number else None


def _marks(board: Dashboard, lines: Sequence[WorklistLine]) -> dict[int, tuple[bool, bool]]:
    """Answer which steps are overdue and which are urgent."""
    now = board.clock.local_now()
    return {line.step: (is_overdue(line, now=now), is_urgent(line)) for line in lines}
