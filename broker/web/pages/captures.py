"""Wire captures: what a device or a sender says, for a time; started, taken away and removed by administrators."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from broker.errors import BrokerError, Conflict, InvalidValue, NotFound, StorageFull
from broker.web import security
from broker.web.access import TheAdmin, Who
from broker.web.pages import Id, TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.web.rendering import Pages
from broker.workflow.captures import MOST_MINUTES, USUAL_MINUTES, CaptureOperations, WantedCapture
from broker.workflow.captures_port import DICOM, PROTOCOLS

router = APIRouter()
Fields = Annotated[Mapping[str, str], Depends(security.form_of)]
ROWS = 100
_FIELDS = ("protocol", "name", "address", "minutes", "reason")


def operations_of(board: Dashboard) -> CaptureOperations:
    """Answer what may be done with captures. Raises NotFound where there is nothing to capture."""
    if board.captures is None:
        raise NotFound("Nothing can be captured here.")
    return board.captures


@router.get("/admin/captures")
def captures(request: Request, board: TheDashboard, pages: ThePages, _: TheAdmin) -> Response:
    """List captures, and begin one."""
    return _page(request, board, pages)


@router.post("/admin/captures")
def start(request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin, fields: Fields) -> Response:
    """Capture what a device or sender says for a time; it ends by itself."""
    typed = {name: fields.get(name, "").replace("\x00", "").strip() for name in _FIELDS}
    try:
        minutes = _minutes(typed["minutes"])
        operations_of(board).start(
            WantedCapture(
                typed["protocol"] or DICOM,
                typed["name"],
                typed["address"],
                minutes,
                typed["reason"],
                who.name,
            )
        )
    except (InvalidValue, Conflict, StorageFull) as error:
        return _page(request, board, pages, error=error, typed=typed)
    return RedirectResponse("/admin/captures", status_code=303)


@router.post("/admin/captures/{capture}/stop")
def stop(board: TheDashboard, who: TheAdmin, capture: Id) -> Response:
    """Capture no more; what was captured stays."""
    operations_of(board).stop(capture, actor=who.name)
    return RedirectResponse("/admin/captures", status_code=303)


@router.post("/admin/captures/{capture}/pcap")
def download(board: TheDashboard, who: TheAdmin, capture: Id) -> Response:
    """Take a capture away as a pcap file; pressed, not followed: nothing that reads links ahead takes it."""
    return pcap(board, who, capture, page="/admin/captures/{capture}/pcap")


@router.post("/admin/captures/{capture}/delete")
def delete(board: TheDashboard, who: TheAdmin, capture: Id) -> Response:
    """Remove the bytes of a capture."""
    operations_of(board).delete(capture, actor=who.name)
    return RedirectResponse("/admin/captures", status_code=303)


def pcap(board: Dashboard, who: Who, capture: int, *, page: str) -> StreamingResponse:
    """Answer a capture as a file, after it is written down who takes it."""
    known, pieces = operations_of(board).download(capture, by=who.caller, page=page)
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"capture-{known.id}-{known.about}").strip("-")
    return StreamingResponse(
        pieces,
        media_type="application/vnd.tcpdump.pcap",
        headers={"Content-Disposition": f'attachment; filename="{name}.pcap"'},
    )


def _minutes(text: str) -> int:
    if not text:
        return USUAL_MINUTES
    if text.isascii() and text.isdecimal() and len(text) <= 4:
        return int(text)
    raise InvalidValue(f"minutes: {text[:20]!r} is no number from 1 to {MOST_MINUTES}", field="minutes")


def _page(
    request: Request,
    board: Dashboard,
    pages: Pages,
    *,
    error: BrokerError | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response:
    operations = operations_of(board)
    kept = {key: (typed or {}).get(key, "")[:600] for key in _FIELDS}
    kept["protocol"] = kept["protocol"] or DICOM
    kept["minutes"] = kept["minutes"] or str(USUAL_MINUTES)
    lines = board.reports.captures(limit=ROWS)
    return pages.render(
        request,
        "captures.html",
        status_code=error.http_status if error else 200,
        lines=[(one, operations.recorded(one), operations.removed_at(one)) for one in lines],
        keep=operations.keep,
        has_room=operations.has_room(),
        protocols=PROTOCOLS,
        problem=str(error) if error else "",
        typed=kept,
    )
