"""Admin: the certificates of the site file, and for how many days each is good."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from broker.web.access import TheAdmin
from broker.web.pages import TheDashboard, ThePages
from broker.workflow.certificate_days import standings

router = APIRouter()


@router.get("/admin/certificates")
def certificates(request: Request, board: TheDashboard, pages: ThePages, _: TheAdmin) -> Response:
    """Show each certificate, the one that ends first on top."""
    found = standings(board.certificates(), now=board.clock.now())
    return pages.render(request, "certificates.html", certificates=found)
