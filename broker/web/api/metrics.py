"""`/metrics`: the numbers of the pages as Prometheus reads them."""

from __future__ import annotations

from fastapi import APIRouter, Response

from broker.web.access import OpenToAll, TheViewer
from broker.web.pages import TheDashboard

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
router = APIRouter()
"""For a viewer or a program's token."""
open_router = APIRouter()
"""For everybody who reaches the port: the site file says so, and the port is loopback."""


@router.get("/metrics")
def metrics(_: TheViewer, board: TheDashboard) -> Response:
    """Answer the metrics."""
    return Response(board.metrics(), media_type=CONTENT_TYPE)


@open_router.get("/metrics", dependencies=[OpenToAll])
def open_metrics(board: TheDashboard) -> Response:
    """Answer the metrics to whoever asks."""
    return Response(board.metrics(), media_type=CONTENT_TYPE)
