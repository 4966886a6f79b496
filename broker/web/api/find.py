"""Find as JSON. Asked by POST: what is looked for is of a patient, and URLs are kept in logs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from broker.web.access import TheViewer
from broker.web.pages import TheDashboard
from broker.web.pages.find import MAX_CHARACTERS, page_of
from broker.web.viewing import TheViewing
from broker.workflow.find_port import Found, FoundGroup

router = APIRouter()


class Question(BaseModel):
    """What is looked for; with `group` and `after`, the next rows of that group."""

    model_config = ConfigDict(extra="forbid")

    q: Annotated[str, Field(max_length=MAX_CHARACTERS)]
    group: Annotated[FoundGroup, Field(strict=False)] | None = None
    after: Annotated[str, Field(max_length=1024)] = ""


@router.post("/api/find")
def find(board: TheDashboard, _: TheViewer, seen: TheViewing, question: Question) -> dict[str, Any]:
    """Answer what a text names exactly and what begins with it, by group; `only` is the page of a single exact hit."""
    if question.group is not None:
        found = board.reports.find_more(question.q, question.group, after=question.after)
        seen.found([found], searched=question.q)
        return {"only": None, "groups": [_group(found)]}
    findings = board.reports.find(question.q)
    seen.found(findings.groups, searched=question.q)
    only = page_of(findings) if findings.only is not None else None
    return {"only": only, "groups": [_group(found) for found in findings.groups]}


def _group(found: Found) -> dict[str, Any]:
    return {**asdict(found), "group": found.group.value}
