"""One image, small, as the pages show it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from broker.web.access import TheViewer
from broker.web.pages import Id, TheDashboard
from broker.web.viewing import TheViewing

router = APIRouter()
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "image/svg+xml": {"schema": {"type": "string"}},
        }
    }
}


@router.get("/api/instances/{instance_id}/preview", response_class=Response, responses=_PICTURE)
def preview(board: TheDashboard, _: TheViewer, seen: TheViewing, instance_id: Id) -> Response:
    """Answer a picture of at most 256 pixels a side, not for diagnosis, or a tile that says why there is none."""
    seen.opened(study=board.reports.instance(instance_id).study_instance_uid)
    picture = board.insight.preview(instance_id)
    return Response(picture.body, media_type=picture.media_type)
