"""Devices, refusals, and who is let in for a time, as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from broker.errors import InvalidValue, NotFound
from broker.web.access import TheOperator, TheViewer
from broker.web.api.once import OnceRoute, TheKey
from broker.web.api.reading import TheIds, TheWhole
from broker.web.pages import Id, Name, TheDashboard
from broker.web.pages.devices import state_of
from broker.web.viewing import TheViewing
from broker.workflow.devices import (
    LONGEST_STAY,
    USUAL_STAY,
    Welcome,
    hours,
    read_devices,
    told_device,
    told_knocks,
)
from broker.workflow.devices_port import Admission
from broker.workflow.entries import asked_like
from broker.workflow.passport import Passport
from broker.workflow.reports_port import WorklistLine

router = APIRouter(route_class=OnceRoute)
_HOUR_S = 3600


class WelcomeRequest(BaseModel):
    """Who is to be let in, from where, for how long, and why."""

    model_config = ConfigDict(extra="forbid")

    ae_title: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")]
    address: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")]
    hours: Annotated[float, Field(gt=0, le=LONGEST_STAY.total_seconds() / _HOUR_S)] = (
        USUAL_STAY.total_seconds() / _HOUR_S
    )
    reason: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]


@router.get("/api/devices")
def devices(board: TheDashboard, _: TheViewer, part: TheWhole) -> list[dict[str, Any]]:
    """List devices: of the site file, let in for a time, and heard besides; those in trouble first."""
    states = read_devices(board.reports, board.known_devices(), now=board.clock.now(), zone=board.zone)
    return [told_device(state) for state in part.part(states, lambda state: state.ae_title)]


# An AE title may hold a slash: what follows it stands first.
@router.get("/api/devices/{ae_title:path}/passport")
def passport(board: TheDashboard, _: TheViewer, ae_title: Name) -> Passport:
    """Say what has to be typed into a device."""
    if board.passport is None:
        raise NotFound("There is no passport here.")
    return board.passport(ae_title)


@router.get("/api/devices/{ae_title:path}/worklist")
def seen_by(
    board: TheDashboard, _: TheViewer, seen: TheViewing, part: TheIds, ae_title: Name
) -> list[WorklistLine]:
    """List the steps a device would be shown now, asking as it last did, in the order it is told them."""
    state = state_of(board, ae_title)
    asked = asked_like(board.reports.last_query(ae_title))
    steps = board.seen_by(ae_title, asked) if state.admission or state.known else ()
    begin = 0
    if part.after_id is not None:
        if part.after_id not in steps:
            raise InvalidValue("after: that is gone meanwhile; begin again", field="after")
        begin = list(steps).index(part.after_id) + 1
    shown = part.shown(steps[begin : begin + part.most], lambda step: step)
    lines = board.reports.worklist_steps(shown)
    seen.listed(lines)
    return list(lines)


@router.get("/api/devices/{ae_title:path}")
def device(board: TheDashboard, _: TheViewer, ae_title: Name) -> dict[str, Any]:
    """Show one device with its last conversations and refusals."""
    return {
        **told_device(state_of(board, ae_title)),
        "conversations": [asdict(one) for one in board.reports.conversations(ae_title)],
        "knocks": [told_knocks(one) for one in board.reports.knocks(ae_title=ae_title)],
    }


@router.get("/api/knocks")
def knocks(board: TheDashboard, _: TheViewer, part: TheIds) -> list[dict[str, Any]]:
    """List refused associations, those alike as one, the newest first."""
    found = board.reports.knocks(before=part.after_id, limit=part.most)
    return [told_knocks(one) for one in part.shown(found, lambda one: one.id)]


@router.get("/api/admissions")
def admissions(board: TheDashboard, _: TheViewer, part: TheIds) -> list[Admission]:
    """List who was let in for a time, the newest first."""
    found = board.reports.admissions(before=part.after_id, limit=part.most)
    return part.shown(found, lambda one: one.id)


@router.post("/api/admissions", status_code=201)
def admit(board: TheDashboard, who: TheOperator, wanted: WelcomeRequest, key: TheKey) -> Admission:
    """Let a device in for a time; the listeners know within two seconds."""
    return board.actions.admit(
        Welcome(wanted.ae_title, wanted.address, hours(wanted.hours), wanted.reason, who.name, key)
    )


@router.post("/api/admissions/{admission}/end")
def end(board: TheDashboard, who: TheOperator, admission: Id, key: TheKey) -> dict[str, Any]:
    """Let a device in no longer; `ended` is false when that was over already."""
    return {"id": admission, "ended": board.actions.end_admission(admission, actor=who.name, key=key)}
