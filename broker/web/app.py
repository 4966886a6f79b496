"""The web application: pages for people, the same as JSON under /api, and /healthz."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.errors import BrokerError, NotSignedIn
from broker.web import api, security
from broker.web.access import TheViewer, identify, methods_of, refuse_undeclared, turned_out
from broker.web.api import metrics
from broker.web.api.contract import contract
from broker.web.api.once import AnsweredBefore
from broker.web.live import LiveOverview
from broker.web.navigation import places_of
from broker.web.pages import (
    admin,
    alerts,
    captures,
    certificates,
    configuration,
    deliveries,
    destinations,
    devices,
    find,
    handover,
    images,
    instances,
    messages,
    operations,
    orders,
    overview,
    probe,
    routes,
    sign_in,
    worklist,
)
from broker.web.ports import Dashboard
from broker.web.problems import is_program, problem
from broker.web.rendering import Pages

STATIC = Path(__file__).parent / "static"
_HEADERS = {
    # No inline script or style anywhere; nothing from outside; works without internet.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


def create_app(dashboard: Dashboard) -> FastAPI:
    """Build the application around what it is given; nothing is read or connected here."""
    app = FastAPI(
        title="Worklist Broker",
        version=dashboard.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.dashboard = dashboard
    routers = [
        module.router
        for module in (
            overview,
            handover,
            find,
            worklist,
            orders,
            messages,
            operations,
            deliveries,
            destinations,
            devices,
            routes,
            images,
            instances,
            admin,
            captures,
            configuration,
            certificates,
            alerts,
            probe,
            sign_in,
        )
    ]
    app.state.pages = Pages(dashboard, places_of(routers))
    app.state.live = LiveOverview(
        lambda: overview.sections(dashboard, app.state.pages),
        turned_out=lambda everybody: turned_out(dashboard.access, everybody),
    )
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for router in routers:
        app.include_router(router, include_in_schema=False)
    app.include_router(api.router)
    app.include_router(metrics.open_router if dashboard.metrics_open else metrics.router)
    pace = security.PaceKeeper(dashboard.pace, dashboard.clock.monotonic) if dashboard.pace else None

    @app.get("/openapi.json", include_in_schema=False)
    def openapi(_: TheViewer) -> dict[str, Any]:
        return contract(app)

    refuse_undeclared(app)

    app.add_middleware(security.BoundedBody)  # within the guard, whose receive would wrap what it raises

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        refusal = security.find_origin(request, dashboard.front)
        if refusal is None and pace is not None:
            refusal = pace.refuse(request)
        refusal = refusal or security.refuse(request, hosts=dashboard.hosts)
        response = refusal if refusal is not None else await call_next(request)
        for name, value in _HEADERS.items():
            if name != "Cache-Control" or not request.url.path.startswith("/static/"):
                response.headers.setdefault(name, value)
        if request.state.is_secure:
            response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
        security.give_token(request, response)
        return response

    @app.exception_handler(NotSignedIn)
    async def not_signed_in(request: Request, error: NotSignedIn) -> Response:
        return await _asked_to_sign_in(request, error)

    @app.exception_handler(AnsweredBefore)
    async def answered_before(_: Request, before: AnsweredBefore) -> Response:
        return before.response()

    @app.exception_handler(BrokerError)
    async def broker_error(request: Request, error: BrokerError) -> Response:
        return await _problem(request, error.http_status, str(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if error.status_code == 404 and detail == "Not Found":
            detail = "There is no such page."
        response = await _problem(request, error.status_code, detail)
        response.headers.update(error.headers or {})
        if error.status_code == 405:  # the router tells only of the first of several routes
            response.headers["Allow"] = ", ".join(methods_of(app, request.url.path))
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [_place(one) for one in error.errors()]
        first = errors[0]
        said = f"{first['where']}: {first['what']}" if first["where"] else first["what"]
        return await _problem(request, 422, said, errors=errors)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, _: Exception) -> Response:
        # Answered outside of the guard, and still raised for the log.
        response = await _problem(request, 500, "Something went wrong here; it is in the log.")
        response.headers.update(_HEADERS)
        return response

    app.add_middleware(HeadAsGet)
    return app


def _place(error: Mapping[str, Any]) -> dict[str, str]:
    """Answer where a request is wrong and what is, without what was sent: that may be of a patient."""
    inside, *where = error["loc"]
    return {"in": str(inside), "where": ".".join(map(str, where)), "what": str(error["msg"])}


class HeadAsGet:
    """Answers HEAD as GET without the body (RFC 9110 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application see a GET, and let only the head of its answer through."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def head_only(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, head_only)


async def _asked_to_sign_in(request: Request, error: NotSignedIn) -> Response:
    """Answer 401 to programs, and bring a person to the sign-in page and from there back."""
    # What somebody looks for stays out of a second address.
    path, query = request.url.path, "" if "q" in request.query_params else request.url.query
    back = quote(f"{path}?{query}" if query else path, safe="")
    if request.headers.get("hx-request") == "true":
        # A part of a page renews itself: the whole page goes.
        return Response(status_code=401, headers={"HX-Redirect": "/sign-in"})
    if is_program(request):
        response = await _problem(request, 401, str(error))
        shown = "authorization" in request.headers
        response.headers["WWW-Authenticate"] = 'Bearer realm="worklist-broker"' + (
            ', error="invalid_token"' if shown else ""
        )
        return response
    return RedirectResponse(
        f"/sign-in?next={back}" if request.method == "GET" else "/sign-in", status_code=303
    )


async def _problem(
    request: Request, status: int, detail: str, *, errors: Sequence[Mapping[str, str]] = ()
) -> Response:
    """Answer problem+json to programs and a page to people."""
    if is_program(request):
        return problem(request, status, detail, errors=errors)
    with suppress(BrokerError):  # then the page is that of nobody
        await run_in_threadpool(identify, request)
    pages: Pages = request.app.state.pages
    return pages.render(request, "problem.html", status_code=status, status=status, detail=detail)
