"""The rules in force: what each says, which way today's images took, and what would become of a study now."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from broker.web.access import TheViewer
from broker.web.pages import Text, TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.web.rule_picture import picture_of
from broker.web.viewing import TheViewing
from broker.workflow.rulebook import DEAD_AFTER_DAYS, Rulebook, read_rulebook

router = APIRouter()
Days = Annotated[int, Query(ge=1, le=3650)]


def rulebook(board: Dashboard, days: int) -> Rulebook:
    """Read the rules in force."""
    midnight = board.clock.local_now().replace(hour=0, minute=0, second=0, microsecond=0)
    return read_rulebook(
        board.routes, board.reports, now=board.clock.now(), midnight=midnight, dead_after_days=days
    )


@router.get("/routes")
def routes(
    request: Request,
    _: TheViewer,
    seen: TheViewing,
    board: TheDashboard,
    pages: ThePages,
    days: Days = DEAD_AFTER_DAYS,
    study: Text = "",
) -> Response:
    """Show the rules in force; with `study`, what they would decide about it now."""
    study = study.strip()
    book = rulebook(board, days)
    tried = board.try_study(study) if study else None
    if tried:
        seen.opened(study=study)
    seen.listed(line for rule in book.rules for line in rule.last)
    return pages.render(
        request,
        "routes.html",
        book=book,
        picture=picture_of(book),
        study=study,
        tried=tried,
    )
