"""Studies received, and one study's timeline with the reason for every route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request, Response

from broker.errors import NotFound
from broker.web.access import TheViewer
from broker.web.pages import ROWS, Name, Text, TheDashboard, ThePage, ThePages
from broker.web.ports import Dashboard
from broker.web.rendering import Pages
from broker.web.searching import NothingSoughtByUrl, TheSearch
from broker.web.viewing import TheViewing, Viewing
from broker.workflow.explain import ExplainedRoute
from broker.workflow.reports_port import Page
from broker.workflow.whereabouts import whereabouts

router = APIRouter()


@router.get("/images")
def images(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    _: TheViewer,
    _plain: NothingSoughtByUrl,
    seen: TheViewing,
    page: ThePage,
    state: Text = "",
) -> Response:
    """List studies, newest first."""
    return _list(request, board, pages, seen, {"state": state, "q": ""}, page)


@router.post("/images")
def search(
    request: Request, board: TheDashboard, pages: ThePages, _: TheViewer, seen: TheViewing, form: TheSearch
) -> Response:
    """List the studies of a patient, or with an accession number or UID."""
    if not form.text:
        return form.without_search("/images", "state")
    filters = {"state": form.field("state"), "q": form.text}
    return _list(request, board, pages, seen, filters, form.page())


def _list(
    request: Request, board: Dashboard, pages: Pages, seen: Viewing, filters: dict[str, str], page: Page
) -> Response:
    lines = board.reports.studies(state=filters["state"] or None, text=filters["q"] or None, page=page)
    seen.listed(lines[:ROWS], searched=filters["q"])
    return pages.render(
        request,
        "images.html",
        lines=lines[:ROWS],
        more=len(lines) > ROWS,
        page=page.offset // ROWS + 1,
        filters=filters,
    )


@router.get("/studies/{study_instance_uid}")
def study(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    _: TheViewer,
    seen: TheViewing,
    study_instance_uid: Name,
) -> Response:
    """Show one study: its timeline, its deliveries, and why each route did or did not take it."""
    entries = board.reports.study_timeline(study_instance_uid)
    if not entries:
        raise NotFound("Nothing is known of this study.")
    seen.opened(study=study_instance_uid)
    deliveries = board.reports.deliveries(study_instance_uid=study_instance_uid, page=Page(limit=100))
    routes = _alike(board.explain(study_instance_uid))
    return pages.render(
        request,
        "study.html",
        study_instance_uid=study_instance_uid,
        study=next(iter(board.reports.studies(text=study_instance_uid, page=Page(limit=1))), None),
        destinations=board.reports.destinations(now=board.clock.now()),
        entries=entries,
        deliveries=deliveries,
        routes=routes,
        whereabouts=whereabouts(routes, deliveries),
    )


def _alike(routes: Sequence[ExplainedRoute]) -> list[ExplainedRoute]:
    """Tell once what holds for the same reasons, with the number of images."""
    told: dict[tuple[object, ...], ExplainedRoute] = {}
    for route in routes:
        key = (route.route, route.matched, route.clauses, route.conflicts, route.configuration)
        before = told.get(key)
        told[key] = replace(route, instances=route.instances + before.instances) if before else route
    return list(told.values())
