"""Guards of the pages while there is no log-in: right host, same origin, and a token on everything that changes."""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import parse_qs, urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.responses import PlainTextResponse

COOKIE = "broker_csrf"
FIELD = "csrf"
HEADER = "X-CSRF-Token"
_SAFE = {"GET", "HEAD", "OPTIONS"}
_MAX_BODY_BYTES = 1024 * 1024
_MAX_FORM_BYTES = 16 * 1024
_TOKEN_CHARS = 43
_TOO_LARGE = "The request is too large."


def refuse(request: Request, *, hosts: frozenset[str] | None) -> Response | None:
    """Answer a refusal, or None when the request may go on to its page."""
    if hosts is not None and _host_name(request) not in hosts:
        return PlainTextResponse("This host name is not served here.", status_code=421)
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        return PlainTextResponse("The length of the request is no number.", status_code=400)
    if int(length[:20]) > _MAX_BODY_BYTES:
        return PlainTextResponse(_TOO_LARGE, status_code=413)
    if request.method in _SAFE:
        return None
    # A foreign site in the same browser must not be able to press our buttons.
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return PlainTextResponse("The request comes from another site.", status_code=403)
    origin = request.headers.get("origin")
    if origin and origin.partition("://")[2] != request.headers.get("host"):
        return PlainTextResponse("The request comes from another site.", status_code=403)
    return None


def _host_name(request: Request) -> str:
    try:
        return (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").lower()
    except ValueError:
        return ""


async def check_token(request: Request) -> None:
    """Compare the token of the form or header with the cookie (double submit). Raises 403."""
    cookie = request.cookies.get(COOKIE, "")
    sent = request.headers.get(HEADER, "")
    if not sent and "application/x-www-form-urlencoded" in request.headers.get("content-type", ""):
        sent = (await form_of(request)).get(FIELD, "")
    # As bytes: texts beyond ASCII cannot be compared in constant time.
    if len(cookie) != _TOKEN_CHARS or not hmac.compare_digest(cookie.encode(), sent.encode()):
        raise HTTPException(403, "The form has expired; reload the page and try again.")


async def form_of(request: Request) -> dict[str, str]:
    """Answer the fields of a form, the first of each name. Raises 413."""
    fields: dict[str, str] | None = getattr(request.state, "form", None)
    if fields is None:
        text = (await _body(request)).decode("utf-8", "replace")
        fields = {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}
        request.state.form = fields  # the body can be read once, and a guard has read it before the page
    return fields


async def _body(request: Request) -> bytes:
    """Read a form; one sent in chunks has told no length. Raises 413."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise HTTPException(413, _TOO_LARGE)
    return bytes(body)


def token(request: Request) -> str:
    """Answer the token of this browser, made on first use."""
    known = request.cookies.get(COOKIE, "")
    if len(known) == _TOKEN_CHARS:
        return known
    made: str = getattr(request.state, "csrf", "") or secrets.token_urlsafe(32)
    request.state.csrf = made
    return made


def give_token(request: Request, response: Response) -> None:
    """Set the cookie when a page of this request made a token."""
    if made := getattr(request.state, "csrf", ""):
        response.set_cookie(COOKIE, made, httponly=True, samesite="strict", path="/")
