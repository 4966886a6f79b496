"""Admin: the versions of the site file, what differs, who put which in force and why, and the way back."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from broker.errors import BrokerError, ConfigurationError, Conflict, InvalidValue, NotFound
from broker.web import security
from broker.web.access import TheAdmin
from broker.web.pages import Id, TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.web.rendering import Pages
from broker.workflow.configuration import (
    MAX_REASON,
    ConfigurationKeeper,
    FixedSiteFile,
    InvalidConfiguration,
)

router = APIRouter()
ROWS = 50
HOME = "/admin/configuration"
Fields = Annotated[Mapping[str, str], Depends(security.form_of)]
Known = Annotated[str, Query(max_length=20)]


def keeper(board: Dashboard) -> ConfigurationKeeper:
    """Answer what may be done to the configuration. Raises NotFound."""
    if board.configuration is None:
        raise NotFound("There is no site file here.")
    return board.configuration


@router.get(HOME)
def configuration(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    _: TheAdmin,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> Response:
    """Show what is in force, and the changes before it."""
    return _history(request, board, pages, before=before)


@router.get(f"{HOME}/diff")
def diff(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    _: TheAdmin,
    before: Known = "",
    after: Known = "",
) -> Response:
    """Show what differs between any two versions, or a version and the site file."""
    sides = (_side(before), _side(after))
    return pages.render(
        request, "configuration_diff.html", sides=sides, difference=keeper(board).difference(*sides)
    )


@router.post(f"{HOME}/check")
def check(request: Request, board: TheDashboard, pages: ThePages, _: TheAdmin, fields: Fields) -> Response:
    """Show what is wrong with a text, or what it would change; the next step applies it."""
    return _trial(request, board, pages, _lines(fields.get("body", "")))


@router.post(HOME)
def apply(request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin, fields: Fields) -> Response:
    """Put a text that was looked at into the site file."""
    body = _unpacked(fields.get("packed", ""))
    try:
        keeper(board).apply(
            body, reason=fields.get("reason", ""), by=who.caller, expected=fields.get("expected", "")
        )
    except (InvalidValue, Conflict) as error:
        return _trial(request, board, pages, body, error=error, reason=fields.get("reason", ""))
    return RedirectResponse(HOME, status_code=303)


@router.post(f"{HOME}/reload")
def reload(request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin) -> Response:
    """Have the roles replaced; this one too, so the page that says so asks again by itself."""
    try:
        keeper(board).reload(by=who.caller)
    except (Conflict, InvalidValue) as error:
        return _history(request, board, pages, error=error)
    return pages.render(request, "configuration_reload.html")


@router.get(f"{HOME}/{{configuration_id}}")
def version(
    request: Request, board: TheDashboard, pages: ThePages, _: TheAdmin, configuration_id: Id
) -> Response:
    """Show a version, what differs from the site file, and the way back to it."""
    return _version(request, board, pages, configuration_id)


@router.post(f"{HOME}/{{configuration_id}}/rollback")
def roll_back(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    who: TheAdmin,
    configuration_id: Id,
    fields: Fields,
) -> Response:
    """Put an older version back into the site file."""
    reason = fields.get("reason", "")
    try:
        keeper(board).roll_back(
            configuration_id, reason=reason, by=who.caller, expected=fields.get("expected", "")
        )
    except (InvalidValue, Conflict) as error:
        return _version(request, board, pages, configuration_id, error=error, reason=reason)
    return RedirectResponse(HOME, status_code=303)


def _history(
    request: Request,
    board: Dashboard,
    pages: Pages,
    *,
    before: int | None = None,
    error: BrokerError | None = None,
) -> Response:
    configurations = keeper(board)
    changes = configurations.reports.configuration_changes(before=before, limit=ROWS + 1)
    return pages.render(
        request,
        "configuration.html",
        status_code=error.http_status if error else 200,
        standing=configurations.standing(),
        changes=changes[:ROWS],
        older=changes[ROWS - 1].id if len(changes) > ROWS else None,
        is_first=before is None,
        error=str(error) if error else "",
    )


def _version(
    request: Request,
    board: Dashboard,
    pages: Pages,
    number: int,
    *,
    error: BrokerError | None = None,
    reason: str = "",
) -> Response:
    configurations = keeper(board)
    found = configurations.reports.configuration_version(number)
    return pages.render(
        request,
        "configuration_version.html",
        status_code=error.http_status if error else 200,
        kept=found,
        text=_text(configurations, number),
        standing=configurations.standing(),
        difference=configurations.difference(None, number),
        commands=configurations.commands(number),
        error=_Told.of(error),
        reason=reason[:MAX_REASON],
        longest=MAX_REASON,
    )


def _text(configurations: ConfigurationKeeper, number: int) -> str:
    try:
        return configurations.shown(number)
    except ConfigurationError as error:  # kept although broken: it stood in the site file
        return f"It cannot be shown without its secrets:\n{error}"


def _trial(
    request: Request,
    board: Dashboard,
    pages: Pages,
    body: str,
    *,
    error: BrokerError | None = None,
    reason: str = "",
) -> Response:
    configurations = keeper(board)
    trial = configurations.try_out(body)
    status = error.http_status if error else 422 if trial.problems else 200
    return pages.render(
        request,
        "configuration_trial.html",
        status_code=status,
        trial=trial,
        typed=body,
        packed=urlsafe_b64encode(body.encode("utf-8", "replace")).decode(),
        standing=configurations.standing(),
        error=None if trial.problems else _Told.of(error),
        reason=reason[:MAX_REASON],
        longest=MAX_REASON,
    )


class _Told:
    """What a page says of an error."""

    def __init__(self, error: BrokerError) -> None:
        self.lines = error.problems if isinstance(error, InvalidConfiguration) else (str(error),)
        self.is_reason = error.field == "reason"
        self.commands = error.commands if isinstance(error, FixedSiteFile) else ()

    @classmethod
    def of(cls, error: BrokerError | None) -> _Told | None:
        return None if error is None else cls(error)


def _side(text: str) -> int | None:
    if text in {"", "file"}:
        return None
    if text.isascii() and text.isdecimal() and 0 < int(text) < 2**63:
        return int(text)
    raise InvalidValue(f"{text!r} is no version: a number, or file.")


def _lines(text: str) -> str:
    """Read what was pasted into a form: browsers end every line with CR LF."""
    return text.replace("\r\n", "\n").strip("\n") + "\n"


def _unpacked(text: str) -> str:
    # Packed, because a page draws control characters differently than they were pasted.
    try:
        return urlsafe_b64decode(text.encode()).decode()
    except (binascii.Error, ValueError):
        raise InvalidValue("The form is not whole; paste the text again.", field="body") from None
