"""Find: one box for everything. What is typed travels in the body of a form: it is of a patient, and URLs are kept."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from broker.errors import InvalidValue
from broker.web import security
from broker.web.access import TheViewer
from broker.web.pages import TheDashboard, ThePages
from broker.web.viewing import TheViewing
from broker.workflow.find_port import Findings, FoundGroup

router = APIRouter()
MAX_CHARACTERS = 128
_PAGES = {
    FoundGroup.ORDERS: "/orders/{}",
    FoundGroup.STUDIES: "/studies/{}",
    FoundGroup.MESSAGES: "/messages/{}",
    FoundGroup.DEVICES: "/worklist?station={}",
}
Fields = Annotated[dict[str, str], Depends(security.form_of)]


@router.get("/find")
def ask(request: Request, pages: ThePages, _: TheViewer) -> Response:
    """Show the box, and what it understands."""
    return pages.render(request, "find.html", q="", groups=(), problem="")


@router.post("/find")
def find(
    request: Request, board: TheDashboard, pages: ThePages, _: TheViewer, seen: TheViewing, fields: Fields
) -> Response:
    """Go to the one object that is named exactly, else show what was found, group by group."""
    text = fields.get("q", "").replace("\x00", "").strip()
    if len(text) > MAX_CHARACTERS:
        return pages.render(
            request,
            "find.html",
            status_code=422,
            q=text[:MAX_CHARACTERS],
            groups=(),
            problem=f"That is longer than {MAX_CHARACTERS} characters; nothing known here is called that.",
        )
    if "group" in fields:
        found = board.reports.find_more(text, group_named(fields["group"]), after=fields.get("after", ""))
        seen.found([found], searched=text)
        return pages.render(request, "find.html", q=text, groups=[found], problem="")
    findings = board.reports.find(text)
    seen.found(findings.groups, searched=text)
    if findings.only is not None:
        return RedirectResponse(page_of(findings), status_code=303)
    return pages.render(request, "find.html", q=text, groups=findings.groups, problem="")


def page_of(findings: Findings) -> str:
    """Answer the page of the one object found."""
    assert findings.only is not None
    group, key = findings.only
    return _PAGES[group].format(quote(key, safe=""))


def group_named(name: str) -> FoundGroup:
    """Answer a group by its name. Raises InvalidValue."""
    try:
        return FoundGroup(name)
    except ValueError:
        raise InvalidValue("group: there is no such group of results.") from None
