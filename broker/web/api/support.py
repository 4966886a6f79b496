"""The support bundle, for administrators."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from broker.web.access import TheAdmin
from broker.web.pages import TheDashboard

router = APIRouter()
_PACKED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.post("/api/support-bundle", response_class=Response, responses=_PACKED)
def support_bundle(who: TheAdmin, board: TheDashboard) -> Response:
    """Make a support bundle (tar.gz): versions, settings without secrets, health, counts, refusals, query plans."""
    headers = {"Content-Disposition": 'attachment; filename="support-bundle.tar.gz"'}
    return Response(board.support_bundle(who.name), media_type="application/gzip", headers=headers)
