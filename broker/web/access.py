"""Who is asking, and whether they may. Every route declares exactly one of these, or it is not served.

    def retry(board: TheDashboard, delivery_id: Id, who: TheOperator) -> Response:
        board.actions.retry(delivery_id, actor=who.name)

A browser shows its session's cookie and, with everything that changes, the token of its forms; a program shows
`Authorization: Bearer`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import Mount

from broker.domain.access import Role
from broker.errors import NotAllowed, NotSignedIn
from broker.web import security
from broker.web.ports import Dashboard
from broker.workflow.access import Access
from broker.workflow.accounts import Caller
from broker.workflow.accounts_port import Session

COOKIE = "broker_session"
SECURE_COOKIE = "__Host-broker_session"
"""Browsers take it only by TLS, for this host and every path: no other host of the domain can plant one."""


@dataclass(frozen=True, slots=True)
class Who:
    """Who is asking."""

    name: str
    """Of the account, or of the token with its label: what events name as their actor."""
    role: Role
    address: str
    token_id: int | None = None
    """Of a program's token; None: a person in a browser."""
    session: Session | None = None

    @property
    def caller(self) -> Caller:
        """Answer who and from where, as the use cases of accounts want it."""
        return Caller(self.name, self.address)

    @property
    def hides_names(self) -> bool:
        """Tell whether names of patients are masked on this session's pages."""
        return self.session is not None and self.session.hides_names


class Needs:
    """A dependency: answers who is asking when their role is enough. Raises NotSignedIn or NotAllowed."""

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, request: Request) -> Who:
        """Find out who it is, and let them in or not; what changes something must carry the form's token."""
        who = await run_in_threadpool(identify, request)
        if who is None:
            raise NotSignedIn
        if not who.role.covers(self.role):
            raise NotAllowed(f"That needs the role {self.role.value}; {who.name} is {who.role.value}.")
        if request.method not in security.SAFE and who.session is not None:
            await security.check_token(request)
        return who


class Anybody:
    """A dependency: lets everybody in, and says so; what changes something must carry the form's token."""

    async def __call__(self, request: Request) -> Who | None:
        """Answer who is asking, if that is known."""
        who = await run_in_threadpool(identify, request)
        if request.method not in security.SAFE:
            await security.check_token(request)
        return who


class Unasked:
    """A dependency: nobody is asked who they are, not even the database."""

    async def __call__(self) -> None:
        """Let in."""


TheViewer = Annotated[Who, Depends(Needs(Role.VIEWER))]
TheOperator = Annotated[Who, Depends(Needs(Role.OPERATOR))]
TheAdmin = Annotated[Who, Depends(Needs(Role.ADMIN))]
TheVisitor = Annotated[Who | None, Depends(Anybody())]
OpenToAll = Depends(Unasked())


def identify(request: Request) -> Who | None:
    """Answer who shows a session or a token that opens something, once for each request."""
    if not hasattr(request.state, "who"):
        request.state.who = _identify(request)
    who: Who | None = request.state.who
    return who


def _identify(request: Request) -> Who | None:
    board: Dashboard = request.app.state.dashboard
    address: str = request.state.address
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    if scheme:
        known = board.access.tokens.known(shown.strip()) if scheme.lower() == "bearer" else None
        if known is None:
            return None
        return Who(f"{known.label} (token {known.id})", known.role, address, token_id=known.id)
    cookie = request.cookies.get(cookie_name(request), "")
    session = board.access.sign_in.session(cookie, by_hand=not _asks_by_itself(request)) if cookie else None
    if session is None:
        return None
    request.state.session_token = cookie
    return Who(session.name, session.role, address, session=session)


def _asks_by_itself(request: Request) -> bool:
    """Tell a page that renews itself from a person who presses something."""
    headers = request.headers
    if request.method != "GET":
        return False
    return "text/event-stream" in headers.get("accept", "") or (
        headers.get("hx-request") == "true" and headers.get("hx-boosted") != "true"
    )


def turned_out(access: Access, everybody: Collection[Who]) -> set[Who]:
    """Answer whose session or token opens nothing any longer, or opens something else: two queries for them all."""
    sessions = access.sign_in.still_open(who.session.id for who in everybody if who.session)
    tokens = access.tokens.still_open(who.token_id for who in everybody if who.token_id is not None)
    return {
        who
        for who in everybody
        if who.role is not (sessions.get(who.session.id) if who.session else tokens.get(who.token_id or 0))
    }


def cookie_name(request: Request) -> str:
    """Answer the name of the session's cookie."""
    return SECURE_COOKIE if request.state.is_secure else COOKIE


def give_session(request: Request, response: Response, token: str) -> None:
    """Let the browser keep the token of its session, out of reach of scripts."""
    # Lax: a link in a mail opens the page it names; what changes something is never a GET.
    response.set_cookie(
        cookie_name(request), token, httponly=True, samesite="lax", path="/", secure=request.state.is_secure
    )
    response.delete_cookie(security.COOKIE, path="/")


def take_session(request: Request, response: Response) -> None:
    """Let the browser forget its session."""
    response.delete_cookie(
        cookie_name(request), httponly=True, samesite="lax", path="/", secure=request.state.is_secure
    )


# ---- every route declares itself -----------------------------------------------------------------------


def declaration(route: RouteContext) -> str | None:
    """Answer `viewer`, `operator`, `admin` or `anybody`; None when a route declares nothing, or two things."""
    found = list(_declared(route.dependant))
    return found[0] if len(found) == 1 else None


def _declared(dependant: Dependant) -> Iterator[str]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, Needs):
            yield inner.call.role.value
        elif isinstance(inner.call, (Anybody, Unasked)):
            yield "anybody"
        yield from _declared(inner)


def served_routes(app: FastAPI) -> Iterator[RouteContext]:
    """Answer every route of the application. Raises TypeError for one that cannot declare who may use it."""
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute):
            yield route
        elif not (isinstance(route.original_route, Mount) and route.path == "/static"):
            raise TypeError(f"{route.path} cannot declare who may use it")


def methods_of(app: FastAPI, path: str) -> list[str]:
    """Answer the methods that are served under a path."""
    found: set[str] = set()
    for route in served_routes(app):
        if route.path_regex.match(path):
            found |= route.methods or set()
    return sorted(found)


def refuse_undeclared(app: FastAPI) -> None:
    """Raise TypeError naming a route that does not declare who may use it."""
    for route in served_routes(app):
        if declaration(route) is None:
            raise TypeError(
                f"{route.path} does not declare who may use it: one of TheViewer, TheOperator, TheAdmin"
            )
