"""Certificates of the site file as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from broker.web.access import TheAdmin
from broker.web.pages import TheDashboard
from broker.workflow.certificate_days import standings

router = APIRouter()


@router.get("/api/certificates")
def certificates(_: TheAdmin, board: TheDashboard) -> list[dict[str, Any]]:
    """List the certificates the site file names, the one that ends first on top; no days: it cannot be read."""
    return [asdict(one) for one in standings(board.certificates(), now=board.clock.now())]
