"""Devices, refusals, and who is let in for a time, as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from broker.errors import NotFound
from broker.web.access import TheOperator, TheViewer
from broker.web.api.operations import TheKey, key_of
from broker.web.pages import Id, Name, TheDashboard
from broker.web.pages.devices import state_of
from broker.workflow.devices import (
    LONGEST_STAY,
    USUAL_STAY,
    Welcome,
    hours,
    read_devices,
    told_device,
    told_knocks,
)

router = APIRouter()
_HOUR_S = 3600
Limit = Annotated[int, Query(ge=1, le=500)]


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
def devices(board: TheDashboard, _: TheViewer) -> list[dict[str, Any]]:
    """List devices: of the site file, let in for a time, and heard besides; those in trouble first."""
    states = read_devices(board.reports, board.known_devices(), now=board.clock.now(), zone=board.zone)
    return [told_device(state) for state in states]


@router.get("/api/devices/{ae_title}")
def device(board: TheDashboard, _: TheViewer, ae_title: Name) -> dict[str, Any]:
    """Show one device with its last conversations."""
    told = told_device(state_of(board, ae_title))
    return {**told, "conversations": [asdict(one) for one in board.reports.conversations(ae_title)]}


@router.get("/api/devices/{ae_title}/passport")
def passport(board: TheDashboard, _: TheViewer, ae_title: Name) -> dict[str, Any]:
    """Say what has to be typed into a device."""
    if board.passport is None:
        raise NotFound("There is no passport here.")
    return asdict(board.passport(ae_title))


@router.get("/api/knocks")
def knocks(board: TheDashboard, _: TheViewer, limit: Limit = 100) -> list[dict[str, Any]]:
    """List refused associations, those alike as one, the newest first."""
    return [told_knocks(one) for one in board.reports.knocks(limit=limit)]


@router.get("/api/admissions")
def admissions(board: TheDashboard, _: TheViewer, limit: Limit = 100) -> list[dict[str, Any]]:
    """List who was let in for a time, the newest first."""
    return [asdict(one) for one in board.reports.admissions(limit=limit)]


@router.post("/api/admissions", status_code=201)
def admit(
    board: TheDashboard, who: TheOperator, wanted: WelcomeRequest, key: TheKey = None
) -> dict[str, Any]:
    """Let a device in for a time; the listeners know within two seconds."""
    asked = Welcome(
        wanted.ae_title,
        wanted.address,
        hours(wanted.hours),
        wanted.reason,
        who.name,
        key_of(key, f"admit {wanted}", who),
    )
    return asdict(board.actions.admit(asked))


@router.post("/api/admissions/{admission}/end")
def end(board: TheDashboard, who: TheOperator, admission: Id) -> dict[str, Any]:
    """Let a device in no longer; `ended` is false when that was over already."""
    return {"id": admission, "ended": board.actions.end_admission(admission, actor=who.name)}
