"""Received studies as JSON, what happened to them and why they went where they went."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from broker.errors import NotFound
from broker.web.access import TheViewer
from broker.web.api.reading import TheListing, TheNumbered
from broker.web.pages import Name, TheDashboard
from broker.web.searching import NothingSoughtByUrl, Sought
from broker.web.viewing import TheViewing
from broker.workflow.explain import ExplainedRoute
from broker.workflow.images_port import InstanceState
from broker.workflow.reports_port import Page, StudyLine, TimelineEntry

router = APIRouter()


class StudySearch(BaseModel):
    """Which studies of a patient, or with an accession number or UID."""

    model_config = ConfigDict(extra="forbid")

    q: Sought
    state: InstanceState | None = None


@router.get("/api/studies")
def studies(
    board: TheDashboard,
    _: TheViewer,
    _plain: NothingSoughtByUrl,
    seen: TheViewing,
    part: TheListing,
    state: InstanceState | None = None,
) -> list[StudyLine]:
    """List received studies, newest first."""
    lines = board.reports.studies(
        state=state.value if state else None, before=part.after or None, page=Page(part.most)
    )
    shown = part.shown(lines, lambda line: line.study_instance_uid)
    seen.listed(shown)
    return shown


@router.post("/api/studies/search")
def search_studies(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheListing, wanted: StudySearch
) -> list[StudyLine]:
    """List the received studies with a patient id, an accession number or a Study Instance UID."""
    lines = board.reports.studies(
        state=wanted.state.value if wanted.state else None,
        text=wanted.q,
        before=part.after or None,
        page=Page(part.most),
    )
    shown = part.shown(lines, lambda line: line.study_instance_uid)
    seen.listed(shown, searched=wanted.q)
    return shown


@router.get("/api/studies/{study_instance_uid}")
def study(board: TheDashboard, _: TheViewer, seen: TheViewing, study_instance_uid: Name) -> StudyLine:
    """Answer one received study."""
    lines = board.reports.studies(text=study_instance_uid, page=Page(2))
    line = next((one for one in lines if one.study_instance_uid == study_instance_uid), None)
    if line is None:
        raise NotFound("Nothing was received of this study.")
    seen.opened(study=study_instance_uid)
    return line


@router.get("/api/studies/{study_instance_uid}/timeline")
def study_timeline(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheNumbered, study_instance_uid: Name
) -> list[TimelineEntry]:
    """Answer what happened to one study."""
    entries = board.reports.study_timeline(study_instance_uid)
    if entries:
        seen.opened(study=study_instance_uid)
    return part.part(entries)


@router.get("/api/studies/{study_instance_uid}/routes")
def study_routes(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheNumbered, study_instance_uid: Name
) -> list[ExplainedRoute]:
    """Answer why each route did or did not take the study."""
    verdicts = board.explain(study_instance_uid)
    if verdicts:
        seen.opened(study=study_instance_uid)
    return part.part(verdicts)
