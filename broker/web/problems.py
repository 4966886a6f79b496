"""What was refused, and why: RFC 9457 problem+json to programs, plain text or a page to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

MEDIA_TYPE = "application/problem+json"
_MOST_PLACES = 20
_MOST_CHARACTERS = 500


def is_program(request: Request) -> bool:
    """Tell a program from a person's browser."""
    return request.url.path.startswith("/api") or "text/html" not in request.headers.get("accept", "")


def problem(
    request: Request, status: int, detail: str, *, errors: Sequence[Mapping[str, str]] = ()
) -> JSONResponse:
    """Answer a problem; `errors` name each place of the request that is wrong."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _phrase(status),
        "status": status,
        "detail": writable(detail),
        "instance": writable(request.url.path),
    }
    if errors:
        body["errors"] = [
            {key: writable(text) for key, text in error.items()} for error in errors[:_MOST_PLACES]
        ]
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE)


def refusal(
    request: Request, status: int, detail: str, *, headers: Mapping[str, str] | None = None
) -> Response:
    """Refuse what does not even come to its page: nobody is asked who they are for it."""
    if is_program(request):
        response: Response = problem(request, status, detail)
    else:
        response = PlainTextResponse(detail, status_code=status)
    response.headers.update(headers or {})
    return response


def writable(text: str) -> str:
    """Answer a text as UTF-8 can write it, cut where it is long: it may repeat what was sent."""
    return text[:_MOST_CHARACTERS].encode("utf-8", "replace").decode()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Problem"
