"""The rules in force as JSON, and what they would decide about a study now."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from broker.web.access import TheViewer
from broker.web.api.reading import TheNumbered, rows
from broker.web.pages import Name, TheDashboard
from broker.web.pages.routes import Days, rulebook
from broker.web.viewing import TheViewing
from broker.workflow.explain import ExplainedRoute
from broker.workflow.rulebook import DEAD_AFTER_DAYS

router = APIRouter()


@router.get("/api/routes")
def routes(
    _: TheViewer, board: TheDashboard, seen: TheViewing, days: Days = DEAD_AFTER_DAYS
) -> dict[str, Any]:
    """Answer the rules in force, in their order, and which way today's images took.

    A rule is `dead` when it has sent nothing for `days` days.
    """
    book = rulebook(board, days)
    seen.listed(line for rule in book.rules for line in rule.last)
    traffic = book.traffic
    return {
        "rules": rows(book.rules),
        "sources": [
            {"ae_title": name, "series": number, "unrouted": traffic.unrouted.get(name, 0)}
            for name, number in sorted(traffic.sources.items())
        ],
        "matches": [
            {"ae_title": name, "rule": rule, "series": number}
            for (name, rule), number in sorted(traffic.matches.items())
        ],
        "cut": traffic.cut,
    }


@router.get("/api/studies/{study_instance_uid}/routes/now")
def study_routes_now(
    _: TheViewer, board: TheDashboard, part: TheNumbered, seen: TheViewing, study_instance_uid: Name
) -> list[ExplainedRoute]:
    """Answer what the rules in force would decide about what has come of a study; nothing is changed."""
    tried = board.try_study(study_instance_uid)
    if tried:
        seen.opened(study=study_instance_uid)
    return part.part(tried)
