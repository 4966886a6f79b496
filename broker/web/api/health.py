"""`/healthz`: does every part serve."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from broker.web.access import OpenToAll
from broker.web.pages import TheDashboard

router = APIRouter()


@router.get("/healthz", dependencies=[OpenToAll])
def healthz(board: TheDashboard) -> JSONResponse:
    """Answer 200 when every listener serves, else 503 with the part that does not."""
    parts = board.health()
    ok = all(part.ok for part in parts)
    body = {"ok": ok, "parts": {part.name: {"ok": part.ok, "detail": part.detail} for part in parts}}
    return JSONResponse(body, status_code=200 if ok else 503)
