"""Wire captures as JSON, and each as a pcap file; for administrators."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from broker.web.access import TheAdmin
from broker.web.api.once import OnceRoute, TheKey
from broker.web.api.reading import TheIds
from broker.web.pages import Id, TheDashboard
from broker.web.pages.captures import operations_of, pcap
from broker.workflow.captures import MOST_MINUTES, USUAL_MINUTES, WantedCapture

router = APIRouter(route_class=OnceRoute)
_PCAP: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/vnd.tcpdump.pcap": {"schema": {"type": "string", "format": "binary"}}}}
}


class CaptureRequest(BaseModel):
    """Whom to capture, for how long, and why; a name, an address, or both."""

    model_config = ConfigDict(extra="forbid")

    protocol: Literal["dicom", "hl7"] = "dicom"
    name: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")] = ""
    address: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")] = ""
    minutes: Annotated[int, Field(ge=1, le=MOST_MINUTES)] = USUAL_MINUTES
    reason: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]


@router.get("/api/captures")
def captures(board: TheDashboard, _: TheAdmin, part: TheIds) -> list[dict[str, Any]]:
    """List captures, the newest first."""
    operations = operations_of(board)
    found = board.reports.captures(before=part.after_id, limit=part.most)
    return [operations.told(one) for one in part.shown(found, lambda one: one.id)]


@router.get("/api/captures/{capture}")
def capture(board: TheDashboard, _: TheAdmin, capture: Id) -> dict[str, Any]:
    """Show one capture."""
    return operations_of(board).told(board.reports.capture(capture))


@router.post("/api/captures", status_code=201)
def start(board: TheDashboard, who: TheAdmin, wanted: CaptureRequest, key: TheKey) -> dict[str, Any]:
    """Capture what a device or sender says; the listeners know within two seconds."""
    operations = operations_of(board)
    asked = WantedCapture(
        wanted.protocol,
        wanted.name,
        wanted.address,
        wanted.minutes,
        wanted.reason,
        who.name,
        key,
    )
    return operations.told(operations.start(asked))


@router.post("/api/captures/{capture}/stop")
def stop(board: TheDashboard, who: TheAdmin, capture: Id, key: TheKey) -> dict[str, Any]:
    """Capture no more; `stopped` is false when it was over already."""
    return {"id": capture, "stopped": operations_of(board).stop(capture, actor=who.name, key=key)}


@router.get("/api/captures/{capture}/pcap", response_class=StreamingResponse, responses=_PCAP)
def download(board: TheDashboard, who: TheAdmin, capture: Id) -> StreamingResponse:
    """Take a capture away as a pcap file; that is a view of patients and leaves its events."""
    return pcap(board, who, capture, page="/api/captures/{capture}/pcap")


@router.delete("/api/captures/{capture}")
def delete(board: TheDashboard, who: TheAdmin, capture: Id) -> dict[str, Any]:
    """Remove the bytes of a capture; `deleted` is false when they were gone already."""
    return {"id": capture, "deleted": operations_of(board).delete(capture, actor=who.name)}
