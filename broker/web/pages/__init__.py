"""One file per page."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator

from broker.web.ports import Dashboard
from broker.web.rendering import Pages
from broker.workflow.reports_port import Page

ROWS = 50
MAX_PAGES = 10_000


def dashboard(request: Request) -> Dashboard:
    """Answer what the application was built with."""
    value: Dashboard = request.app.state.dashboard
    return value


def pages(request: Request) -> Pages:
    """Answer the renderer."""
    value: Pages = request.app.state.pages
    return value


def page_of(page: Annotated[int, Query(ge=1, le=MAX_PAGES)] = 1) -> Page:
    """Read `?page=`; one row more than shown says whether there is a next page."""
    return Page(limit=ROWS + 1, offset=(page - 1) * ROWS)


def without_nul(text: str) -> str:
    """Leave NUL out: PostgreSQL takes none; nothing that is known has one."""
    return text.replace("\x00", "")


TheDashboard = Annotated[Dashboard, Depends(dashboard)]
ThePages = Annotated[Pages, Depends(pages)]
ThePage = Annotated[Page, Depends(page_of)]
Text = Annotated[str, Query(max_length=128), AfterValidator(without_nul)]
Name = Annotated[str, Path(max_length=128), AfterValidator(without_nul)]
Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
