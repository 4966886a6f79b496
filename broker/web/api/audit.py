"""The audit trail as JSON: searched, verified, and sent on to collectors."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from broker.domain.events import EventName
from broker.errors import InvalidValue
from broker.web.access import TheAdmin
from broker.web.api.delivery_filters import Id
from broker.web.api.instants import Instant
from broker.web.api.reading import TheWhole
from broker.web.pages import TheDashboard
from broker.workflow.audit_port import AuditQuestion

router = APIRouter()
Short = Annotated[str, Field(max_length=128, pattern=r"^[^\x00]*$")]


class Question(BaseModel):
    """What is asked of the trail; what is left out is not asked for.

    In the body of a POST: whom it is about stays out of URLs.
    """

    model_config = ConfigDict(extra="forbid")

    actor: Short = ""
    """Account, token, device or sender."""
    patient: Short = ""
    """Patient ID; one of patient, order and study at a time, the first that is given."""
    order: Id | None = None
    study_instance_uid: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")] = ""
    since: Instant | None = None
    until: Instant | None = None
    what: EventName | None = None
    before: Id | None = None
    """Id of the last event seen: the next part."""
    limit: Annotated[int, Field(ge=1, le=500)] = 50


class Verified(BaseModel):
    """What a walk along the chain of the trail found."""

    sealed: int
    """Events whose seal was checked."""
    unsealed: int
    """Events that wait for the sealer."""
    problems: list[str]
    """Empty: nothing was changed, taken out or cut off."""


@router.post("/api/audit/search")
def search(board: TheDashboard, who: TheAdmin, asked: Question) -> list[dict[str, Any]]:
    """Search who did and who looked at what, the newest first. The search is an event itself."""
    for name in ("since", "until"):
        value: datetime | None = getattr(asked, name)
        if value is not None and value.tzinfo is None:
            raise InvalidValue(f"{name}: needs an offset, like 2026-11-21T19:00:00+01:00", field=name)
    question = AuditQuestion(
        actor=asked.actor.strip(),
        patient=asked.patient.strip(),
        order=asked.order,
        study_instance_uid=asked.study_instance_uid.strip(),
        since=asked.since,
        until=asked.until,
        what=asked.what.value if asked.what else "",
    )
    found = board.access.reports.audit(question, before=asked.before, limit=asked.limit)
    board.access.audit.read(who.caller, how="searched", asked=question.words)
    return [asdict(line) for line in found]


@router.post("/api/audit/verify")
def verify(board: TheDashboard, who: TheAdmin) -> Verified:
    """Walk along the whole chain of the trail."""
    found = board.access.verify()
    board.access.audit.read(who.caller, how="verified")
    return Verified(sealed=found.sealed, unsealed=found.unsealed, problems=list(found.problems))


@router.get("/api/audit/collectors")
def collectors(board: TheDashboard, _: TheAdmin, part: TheWhole) -> list[dict[str, Any]]:
    """List those who are sent audit messages, and what waits for each."""
    return [asdict(line) for line in part.part(board.access.collectors(), lambda line: line.name)]
