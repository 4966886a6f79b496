"""One image, small: enough to recognise an exam by, marked as not for diagnosis wherever it stands."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from broker.web.access import TheViewer
from broker.web.pages import Id, TheDashboard
from broker.web.viewing import TheViewing

router = APIRouter()


@router.get("/instances/{instance_id}/preview")
def preview(
    request: Request, board: TheDashboard, _: TheViewer, seen: TheViewing, instance_id: Id
) -> Response:
    """Answer a picture of at most 256 pixels a side, or a tile that says why there is none."""
    # A picture shows the patient as much as a name does, whether the browser kept it or not.
    seen.opened(study=board.reports.instance(instance_id).study_instance_uid)
    # A stored object never changes, and its id is never given again.
    headers = {"ETag": f'"instance-{instance_id}"', "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    picture = board.insight.preview(instance_id)
    if picture.media_type != "image/png":
        headers.pop("ETag")  # what is not decoded here may be one day
    return Response(picture.body, media_type=picture.media_type, headers=headers)
