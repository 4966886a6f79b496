"""Certificates of the site file as JSON."""

from __future__ import annotations

from fastapi import APIRouter

from broker.web.access import TheAdmin
from broker.web.api.reading import TheWhole
from broker.web.pages import TheDashboard
from broker.workflow.certificate_days import CertificateDays, standings

router = APIRouter()


@router.get("/api/certificates")
def certificates(_: TheAdmin, board: TheDashboard, part: TheWhole) -> list[CertificateDays]:
    """List the certificates the site file names, the one that ends first on top; no days: it cannot be read."""
    return part.part(standings(board.certificates(), now=board.clock.now()), lambda one: one.name)
