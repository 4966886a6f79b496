"""Signing in and out, the first account, one's own password, and whether names of patients are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from broker.errors import BrokerError, Conflict, InvalidValue, NotAllowed, NotSignedIn, TooManyTries
from broker.web import security
from broker.web.access import TheViewer, TheVisitor, Who, cookie_name, give_session, take_session
from broker.web.pages import TheDashboard, ThePages
from broker.web.rendering import Pages
from broker.workflow.accounts_port import Session

router = APIRouter()
TheForm = Annotated[Mapping[str, str], Depends(security.form_of)]
# Nothing a browser would take for another host: no `//`, no backslash, nothing it would strip.
_OWN_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
_MAX_PATH = 500


def own_path(text: str) -> str:
    """Answer a path of ours to go on to; anything else becomes the overview."""
    return text if len(text) <= _MAX_PATH and _OWN_PATH.fullmatch(text) else "/"


@router.get("/sign-in")
def sign_in_page(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    who: TheVisitor,
    next: str = "/",  # noqa: A002
) -> Response:
    """Ask for name and password."""
    if who is not None and who.session is not None:
        return RedirectResponse(own_path(next), status_code=303)
    if board.access.accounts.is_first_run():
        return RedirectResponse("/first-run", status_code=303)
    return pages.render(request, "sign_in.html", next=own_path(next), name="", problem="")


@router.post("/sign-in")
def sign_in(request: Request, board: TheDashboard, pages: ThePages, _: TheVisitor, form: TheForm) -> Response:
    """Open a session under a new token; whatever the browser brought before is worth nothing."""
    name, next_ = form.get("name", ""), own_path(form.get("next", "/"))
    try:
        token = board.access.sign_in.sign_in(
            name,
            form.get("password", ""),
            address=request.state.address,
            before=request.cookies.get(cookie_name(request), ""),
        )
    except (NotAllowed, TooManyTries) as error:
        answer = pages.render(
            request,
            "sign_in.html",
            status_code=error.http_status,
            next=next_,
            name=name[:64],
            problem=str(error),
        )
        if isinstance(error, TooManyTries):
            answer.headers["Retry-After"] = str(error.wait_s)
        return answer
    response = RedirectResponse(next_, status_code=303)
    give_session(request, response, token)
    return response


@router.post("/sign-out")
def sign_out(request: Request, board: TheDashboard, who: TheViewer) -> Response:
    """End this session."""
    if who.session is not None:
        board.access.sign_in.sign_out(request.state.session_token, who.session, address=who.address)
    response = RedirectResponse("/sign-in", status_code=303)
    take_session(request, response)
    return response


@router.get("/first-run")
def first_run_page(request: Request, board: TheDashboard, pages: ThePages, _: TheVisitor) -> Response:
    """Ask for the one-time token and for the first account. The token stands behind # and is never sent here."""
    if not board.access.accounts.is_first_run():
        return RedirectResponse("/sign-in", status_code=303)
    return pages.render(request, "first_run.html", name="", problem="", field="")


@router.post("/first-run")
def first_run(
    request: Request, board: TheDashboard, pages: ThePages, _: TheVisitor, form: TheForm
) -> Response:
    """Make the first admin and sign them in."""
    name, password = form.get("name", ""), form.get("password", "")
    try:
        _same(password, form.get("again", ""))
        board.access.accounts.add_first(form.get("token", ""), name, password, address=request.state.address)
        token = board.access.sign_in.sign_in(name, password, address=request.state.address)
    except (NotAllowed, Conflict, InvalidValue) as error:
        return _shown_again(pages, request, "first_run.html", error, name=name[:64])
    response = RedirectResponse("/", status_code=303)
    give_session(request, response, token)
    return response


@router.get("/account")
def account_page(request: Request, pages: ThePages, _: TheViewer, changed: bool = False) -> Response:
    """Show who one is, and ask for another password."""
    return pages.render(request, "account.html", changed=changed, problem="", field="")


@router.post("/account/password")
def change_password(
    request: Request, board: TheDashboard, pages: ThePages, who: TheViewer, form: TheForm
) -> Response:
    """Change one's own password; every other session of the account ends."""
    session = _session(who)
    try:
        _same(form.get("password", ""), form.get("again", ""))
        token = board.access.sign_in.change_own_password(
            session, form.get("current", ""), form.get("password", ""), address=who.address
        )
    except (NotAllowed, TooManyTries, InvalidValue) as error:
        return _shown_again(pages, request, "account.html", error, changed=False)
    response = RedirectResponse("/account?changed=true", status_code=303)
    give_session(request, response, token)
    return response


@router.post("/account/privacy")
def privacy(request: Request, board: TheDashboard, who: TheViewer, form: TheForm) -> Response:
    """Mask the names of patients on this session's pages, or show them again."""
    board.access.sign_in.hide_names(_session(who), hide=form.get("hide") == "true")
    return RedirectResponse(_came_from(request), status_code=303)


def _session(who: Who) -> Session:
    if who.session is None:
        raise NotSignedIn("That is for people: a token has no password and no pages.")
    return who.session


def _same(password: str, again: str) -> None:
    if password != again:
        raise InvalidValue("The two passwords are not the same.", field="again")


def _shown_again(
    pages: Pages, request: Request, template: str, error: BrokerError, **values: object
) -> Response:
    """Show the form again with what is wrong where; passwords are not repeated."""
    return pages.render(
        request,
        template,
        status_code=error.http_status,
        problem=str(error),
        field=error.field or "",
        **values,
    )


def _came_from(request: Request) -> str:
    """Answer the page a button was pressed on."""
    referer = urlsplit(request.headers.get("referer", ""))
    path = f"{referer.path}?{referer.query}" if referer.query else referer.path
    return own_path(path) if referer.netloc == request.headers.get("host") else "/"
