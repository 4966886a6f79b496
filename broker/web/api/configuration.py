"""Configuration versions as JSON: what is in force, what was, who put it there; applying and rolling back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from broker.web.access import TheAdmin
from broker.web.api.reading import TheIds
from broker.web.pages import Id, TheDashboard
from broker.web.pages.configuration import keeper
from broker.workflow.configuration import MAX_BODY, MAX_REASON, Difference, Standing, Trial, digest
from broker.workflow.configuration_port import ConfigurationChange

router = APIRouter()
Known = Annotated[int | None, Query(ge=1, le=2**63 - 1)]
Body = Annotated[str, Field(max_length=MAX_BODY)]
Reason = Annotated[str, Field(min_length=1, max_length=MAX_REASON, pattern=r"^[^\x00]*$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckRequest(BaseModel):
    """A text that may become the site file."""

    model_config = ConfigDict(extra="forbid")

    body: Body


class RollbackRequest(BaseModel):
    """Why, and what stood in the site file when the decision was made."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason
    expected_sha256: Digest | None = None
    """Given: nothing is changed when the site file holds something else by now."""


class ApplyRequest(RollbackRequest):
    """A text that is to become the site file, why, and what stood there."""

    body: Body


@router.get("/api/configuration")
def standing(_: TheAdmin, board: TheDashboard) -> Standing:
    """Say which version is in force, what the site file holds, and what each role runs on."""
    return keeper(board).standing()


@router.get("/api/configuration/history")
def history(_: TheAdmin, board: TheDashboard, part: TheIds) -> list[ConfigurationChange]:
    """List changes, newest first."""
    changes = keeper(board).reports.configuration_changes(before=part.after_id, limit=part.most)
    return part.shown(changes, lambda change: change.id)


@router.get("/api/configuration/diff", responses={404: {}})
def diff(_: TheAdmin, board: TheDashboard, before: Known = None, after: Known = None) -> Difference:
    """Say what differs between two versions; one that is not given is the site file as it stands."""
    return keeper(board).difference(before, after)


@router.get("/api/configuration/versions/{configuration_id}")
def version(_: TheAdmin, board: TheDashboard, configuration_id: Id) -> dict[str, Any]:
    """Answer a version without secrets, contacts and comments."""
    configurations = keeper(board)
    found = configurations.reports.configuration_version(configuration_id)
    return {
        "id": found.id,
        "sha256": found.sha256,
        "kept_at": found.kept_at,
        "text": configurations.shown(configuration_id),
    }


@router.post("/api/configuration/check")
def check(_: TheAdmin, board: TheDashboard, wanted: CheckRequest) -> Trial:
    """Say what is wrong with a text, or what putting it into the site file would change. Changes nothing."""
    return keeper(board).try_out(wanted.body)


@router.post("/api/configuration", status_code=201)
def apply(who: TheAdmin, board: TheDashboard, wanted: ApplyRequest) -> dict[str, Any]:
    """Check a text and put it into the site file; what stood there is kept."""
    change = keeper(board).apply(
        wanted.body, reason=wanted.reason, by=who.caller, expected=wanted.expected_sha256
    )
    return {**asdict(change), "sha256": digest(wanted.body)}


@router.post("/api/configuration/versions/{configuration_id}/rollback", status_code=201)
def roll_back(
    who: TheAdmin, board: TheDashboard, configuration_id: Id, wanted: RollbackRequest
) -> ConfigurationChange:
    """Check an older version and put it back into the site file; what stood there is kept."""
    return keeper(board).roll_back(
        configuration_id, reason=wanted.reason, by=who.caller, expected=wanted.expected_sha256
    )


@router.post("/api/configuration/reload", status_code=202)
def reload(who: TheAdmin, board: TheDashboard) -> dict[str, bool]:
    """Have every role replaced in order, on the site file as it stands."""
    keeper(board).reload(by=who.caller)
    return {"asked": True}
