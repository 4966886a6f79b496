"""What every request goes through before its page: where it comes from, right host, same origin, size, pace."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from fastapi import HTTPException, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.web.ports import Front, Pace
from broker.web.problems import refusal

COOKIE = "broker_csrf"
FIELD = "csrf"
HEADER = "X-CSRF-Token"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_BODY_BYTES = 1024 * 1024
_MAX_STRANGERS_FORM_BYTES = 64 * 1024
"""Of somebody who has not signed in; others may paste a whole site file."""
_MAX_FORM_FIELDS = 2000
_MAX_ADDRESSES = 10_000
_TOKEN_CHARS = 43
_TOO_LARGE = "The request is too large."


def find_origin(request: Request, front: Front) -> Response | None:
    """Remember who the request comes from and whether it came by TLS; answer a refusal of what may not come.

    A proxy's word is taken only from the addresses the site file names.
    """
    peer = _address(request.client.host if request.client else "")
    request.state.address, request.state.is_secure = peer, front.tls
    if not front.trusted:
        return None
    if not _is_among(peer, front.trusted):
        if is_loopback(peer):
            return None
        return refusal(request, 403, "These pages are served through their proxy only.")
    if request.headers.get("x-forwarded-proto", "https").rpartition(",")[2].strip().lower() != "https":
        return refusal(request, 403, "Open the https address: a password needs TLS.")
    request.state.is_secure = True
    # From the right: what stands further left was written by the client, and may say anything.
    for text in reversed(",".join(request.headers.getlist("x-forwarded-for")).split(",")[-32:]):
        address = _address(text.strip())
        if not _is_ip(address):
            break
        request.state.address = address
        if not _is_among(address, front.trusted):
            break
    return None


def refuse(request: Request, *, hosts: frozenset[str] | None) -> Response | None:
    """Answer a refusal, or None when the request may go on to its page."""
    if hosts is not None and _host_name(request) not in hosts:
        return refusal(request, 421, "This host name is not served here.")
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        return refusal(request, 400, "The length of the request is no number.")
    if int(length[:20]) > MAX_BODY_BYTES:
        return refusal(request, 413, _TOO_LARGE)
    if request.method in SAFE:
        return None
    if request.url.path.startswith("/api/") and not _is_json(request):
        return refusal(request, 415, "The body must be application/json.")
    # A foreign site in the same browser must not be able to press our buttons.
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return refusal(request, 403, "The request comes from another site.")
    origin = request.headers.get("origin")
    if origin and origin.partition("://")[2] != request.headers.get("host"):
        return refusal(request, 403, "The request comes from another site.")
    return None


class BoundedBody:
    """Ends a request whose body grows beyond MAX_BODY_BYTES; one sent in chunks has told no length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what the application reads. Raises 413 in it."""
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            return message

        await self._app(scope, bounded if scope["type"] == "http" else receive, send)


class PaceKeeper:
    """Lets each address send so many requests a second, more for a moment. Bounded; loopback is exempt."""

    def __init__(self, pace: Pace, monotonic: Callable[[], float]) -> None:
        self._pace, self._monotonic = pace, monotonic
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def refuse(self, request: Request) -> Response | None:
        """Answer 429 with how long to wait, or None when the request may go on."""
        address: str = request.state.address
        if is_loopback(address):
            return None
        now = self._monotonic()
        left, at = self._left.pop(address, (float(self._pace.burst), now))
        left = min(self._pace.burst, left + (now - at) * self._pace.per_s)
        self._left[address] = (left - 1 if left >= 1 else left, now)
        while len(self._left) > _MAX_ADDRESSES:
            self._left.popitem(last=False)
        if left >= 1:
            return None
        wait_s = math.ceil((1 - left) / self._pace.per_s)
        return refusal(
            request, 429, "Too many requests; wait a moment.", headers={"Retry-After": str(wait_s)}
        )


async def form_of(request: Request) -> dict[str, str]:
    """Answer the fields of a form, the first of each name. Raises 413 and 400."""
    fields: dict[str, str] | None = getattr(request.state, "form", None)
    if fields is None:
        # The body can be read once, and a guard has read it before the page.
        fields = request.state.form = await _read_form(request)
    return fields


async def _read_form(request: Request) -> dict[str, str]:
    kind = request.headers.get("content-type", "")
    if getattr(request, "_form", None) is not None:  # the route has asked for fields of its own
        given = (await request.form()).multi_items()
        return {key: value for key, value in reversed(given) if isinstance(value, str)}
    if "application/x-www-form-urlencoded" not in kind:
        return {}
    body = (await _body(request)).decode("utf-8", "replace")
    try:
        return dict(reversed(parse_qsl(body, keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS)))
    except ValueError as error:
        raise HTTPException(400, "The form has too many fields.") from error


async def check_token(request: Request) -> None:
    """Compare the token of the form or header with that of the session or, before one, the cookie. Raises 403."""
    wanted = known_token(request)
    sent = request.headers.get(HEADER, "") or (await form_of(request)).get(FIELD, "")
    # As bytes: texts beyond ASCII cannot be compared in constant time.
    if len(wanted) != _TOKEN_CHARS or not hmac.compare_digest(
        wanted.encode(), sent.encode("utf-8", "replace")
    ):
        raise HTTPException(403, "The form has expired; reload the page and try again.")


async def _body(request: Request) -> bytes:
    """Read a form; one sent in chunks has told no length. Raises 413."""
    is_known = getattr(request.state, "session_token", "")
    most = MAX_BODY_BYTES if is_known else _MAX_STRANGERS_FORM_BYTES
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise HTTPException(413, _TOO_LARGE)
    return bytes(body)


def known_token(request: Request) -> str:
    """Answer the token this browser's forms must carry: bound to the session, else that of the cookie."""
    session: str = getattr(request.state, "session_token", "")
    if session:
        digest = hashlib.sha256(b"form " + session.encode()).digest()
        return urlsafe_b64encode(digest).decode().rstrip("=")
    return request.cookies.get(COOKIE, "")


def token(request: Request) -> str:
    """Answer the token of this browser, made on first use."""
    known = known_token(request)
    if len(known) == _TOKEN_CHARS:
        return known
    made: str = getattr(request.state, "csrf", "") or secrets.token_urlsafe(32)
    request.state.csrf = made
    return made


def give_token(request: Request, response: Response) -> None:
    """Set the cookie when a page of this request made a token."""
    if made := getattr(request.state, "csrf", ""):
        response.set_cookie(
            COOKIE, made, httponly=True, samesite="strict", path="/", secure=request.state.is_secure
        )


def is_loopback(address: str) -> bool:
    """Tell whether an address is this machine's own."""
    return _is_ip(address) and ipaddress.ip_address(address).is_loopback


def _is_json(request: Request) -> bool:
    """Tell whether the body is JSON, or there is none."""
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return not has_body or kind == "application/json"


def _host_name(request: Request) -> str:
    try:
        return (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").lower()
    except ValueError:
        return ""


def _address(text: str) -> str:
    """Answer an address in one form: an IPv4 one mapped into IPv6 as IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text[:64]
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_among(address: str, networks: tuple[str, ...]) -> bool:
    if not _is_ip(address):
        return False
    found = ipaddress.ip_address(address)
    return any(found in ipaddress.ip_network(network, strict=False) for network in networks)
