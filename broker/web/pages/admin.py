"""Admin: who may sign in, tokens of programs, and who did or looked at what."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from broker.domain.access import Role
from broker.domain.events import EventName
from broker.errors import BrokerError, Conflict, InvalidValue
from broker.web import security
from broker.web.access import TheAdmin, Who
from broker.web.audit_file import as_csv
from broker.web.pages import Id, Name, TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.web.rendering import Pages
from broker.workflow.audit_port import AuditQuestion

router = APIRouter()
ROWS = 100
ACCOUNTS = TOKENS = 50
"""Shown at once."""
_KINDS = [name.value for name in EventName]
Fields = Annotated[Mapping[str, str], Depends(security.form_of)]


@router.get("/admin")
def admin(
    request: Request,
    board: TheDashboard,
    pages: ThePages,
    _: TheAdmin,
    name: Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$")] = "",
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> Response:
    """Show accounts from a name on, tokens, and who is signed in."""
    return _page(request, board, pages, name=name.strip().lower(), before=before)


@router.post("/admin/accounts")
def add_account(
    request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin, fields: Fields
) -> Response:
    """Add an account with a first password, which its person changes."""
    try:
        board.access.accounts.add(
            fields.get("name", ""), _role(fields), fields.get("password", ""), by=who.caller
        )
    except (InvalidValue, Conflict) as error:
        return _page(request, board, pages, error=error, at="account", typed=fields)
    return RedirectResponse("/admin", status_code=303)


@router.post("/admin/accounts/{name}/role")
def change_role(
    request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin, name: Name, fields: Fields
) -> Response:
    """Give an account another role; its sessions end."""
    try:
        board.access.accounts.change_role(name, _role(fields), by=who.caller)
    except (InvalidValue, Conflict) as error:
        return _page(request, board, pages, error=error, at="accounts")
    return _back(who.name, name)


@router.post("/admin/accounts/{name}/disable")
def disable(request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin, name: Name) -> Response:
    """Let an account in no longer; its sessions end at once."""
    try:
        board.access.accounts.disable(name, by=who.caller)
    except Conflict as error:
        return _page(request, board, pages, error=error, at="accounts")
    return _back(who.name, name)


@router.post("/admin/accounts/{name}/enable")
def enable(board: TheDashboard, who: TheAdmin, name: Name) -> Response:
    """Let a disabled account in again."""
    board.access.accounts.enable(name, by=who.caller)
    return RedirectResponse("/admin", status_code=303)


@router.post("/admin/accounts/{name}/password")
def set_password(
    request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin, name: Name, fields: Fields
) -> Response:
    """Give an account another password; its sessions end."""
    try:
        board.access.accounts.set_password(name, fields.get("password", ""), by=who.caller)
    except InvalidValue as error:
        return _page(request, board, pages, error=error, at="accounts")
    return _back(who.name, name)


@router.post("/admin/sessions/{session_id}/end")
def end_session(board: TheDashboard, who: TheAdmin, session_id: Id) -> Response:
    """Sign a browser out, wherever it is."""
    board.access.accounts.end_session(session_id, by=who.caller)
    is_mine = who.session is not None and who.session.id == session_id
    return RedirectResponse("/sign-in" if is_mine else "/admin#sessions", status_code=303)


@router.post("/admin/tokens")
def issue_token(
    request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin, fields: Fields
) -> Response:
    """Make a token and show it, once."""
    try:
        days = fields.get("days", "")
        if not (days.isascii() and days.isdecimal() and len(days) <= 4):
            raise InvalidValue("Days is a number from 1 to 366.", field="days")
        _, token = board.access.tokens.issue(
            fields.get("label", ""), _role(fields), life=timedelta(days=int(days)), by=who.caller
        )
    except InvalidValue as error:
        return _page(request, board, pages, error=error, at="token", typed=fields)
    return _page(request, board, pages, made=token)


@router.post("/admin/tokens/{token_id}/revoke")
def revoke_token(board: TheDashboard, who: TheAdmin, token_id: Id) -> Response:
    """Take a token back."""
    board.access.tokens.revoke(token_id, by=who.caller)
    return RedirectResponse("/admin#tokens", status_code=303)


@router.get("/admin/audit")
def audit(request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin) -> Response:
    """Show the newest of the trail, and the form that asks it."""
    return _audit(request, board, pages, {}, who=who)


@router.post("/admin/audit")
def search(request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin, fields: Fields) -> Response:
    """Search the trail. Asked by a form: whom it is about stays out of URLs."""
    return _audit(request, board, pages, fields, who=who)


@router.post("/admin/audit/verify")
def verify(request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin, fields: Fields) -> Response:
    """Walk along the chain; what was found stays on the page."""
    found = board.access.verify()
    board.access.audit.read(who.caller, how="verified")
    return _audit(request, board, pages, fields, who=who, verification=found)


@router.post("/admin/audit/download")
def download(
    request: Request, board: TheDashboard, pages: ThePages, who: TheAdmin, fields: Fields
) -> Response:
    """Answer what fits as a file that spreadsheets read; that it was taken is an event itself."""
    try:
        question = _question(_given(fields), board)
    except InvalidValue:
        return _audit(request, board, pages, fields, who=who)
    found = board.access.reports.audit_file(question)
    board.access.audit.downloaded(who.caller, question, events=len(found))
    name = f"audit-{board.clock.local_now():%Y%m%d-%H%M%S}.csv"
    return Response(
        as_csv(found, zone=board.zone),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _audit(
    request: Request,
    board: Dashboard,
    pages: Pages,
    fields: Mapping[str, str],
    *,
    who: Who,
    verification: object = None,
) -> Response:
    given = _given(fields)
    problem, lines = "", []
    try:
        before = fields.get("before", "")
        question = _question(given, board)
        found = board.access.reports.audit(question, before=_number(before, "before"), limit=ROWS + 1)
        lines = list(found)
        board.access.audit.read(who.caller, how="searched", asked=question.words)
    except InvalidValue as error:
        problem = str(error)
    return pages.render(
        request,
        "audit.html",
        status_code=422 if problem else 200,
        given=given,
        kinds=_KINDS,
        lines=lines[:ROWS],
        before=lines[ROWS - 1].id if len(lines) > ROWS else None,
        problem=problem,
        verification=verification,
        collectors=board.access.collectors(),
    )


def _given(fields: Mapping[str, str]) -> Mapping[str, str]:
    """Answer what is asked of the trail as it was typed."""
    names = ("actor", "patient", "order", "study", "what", "since", "until")
    return {key: fields.get(key, "").replace("\x00", "").strip()[:128] for key in names}


def _question(given: Mapping[str, str], board: Dashboard) -> AuditQuestion:
    """Read what is asked of the trail. Raises InvalidValue."""
    return AuditQuestion(
        actor=given["actor"],
        patient=given["patient"],
        order=_number(given["order"], "order"),
        study_instance_uid=given["study"],
        since=_instant(given["since"], board),
        until=_instant(given["until"], board),
        what=given["what"] if given["what"] in _KINDS else "",
    )


def _page(
    request: Request,
    board: Dashboard,
    pages: Pages,
    *,
    error: BrokerError | None = None,
    at: str = "",
    typed: Mapping[str, str] | None = None,
    made: str = "",
    name: str = "",
    before: int | None = None,
) -> Response:
    accounts = board.access.reports.accounts(since=name, limit=ACCOUNTS + 1)
    tokens = board.access.reports.api_tokens(before=before, limit=TOKENS + 1)
    kept = {key: (typed or {}).get(key, "")[:64] for key in ("name", "label", "role", "days")}
    return pages.render(
        request,
        "admin.html",
        status_code=error.http_status if error else 200,
        accounts=accounts[:ACCOUNTS],
        name=name,
        following=accounts[ACCOUNTS].name if len(accounts) > ACCOUNTS else "",
        tokens=tokens[:TOKENS],
        before=before,
        older=tokens[TOKENS - 1].id if len(tokens) > TOKENS else None,
        sessions=board.access.sign_in.open_sessions(),
        roles=[role.value for role in Role],
        problem=str(error) if error else "",
        at=at,
        typed=kept,
        made=made,
    )


def _role(fields: Mapping[str, str]) -> Role:
    try:
        return Role(fields.get("role", ""))
    except ValueError:
        raise InvalidValue("A role is viewer, operator or admin.", field="role") from None


def _number(text: str, what: str) -> int | None:
    if not text:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        return int(text)
    raise InvalidValue(f"{what}: {text[:20]!r} is no number.")


def _instant(text: str, board: Dashboard) -> datetime | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=board.zone)).astimezone(board.zone)
    except (ValueError, OverflowError):
        raise InvalidValue(f"{text[:30]!r} is no date and time.") from None


def _back(mine: str, name: str) -> Response:
    """Go back to the page; to the door when one's own sessions have ended."""
    return RedirectResponse("/sign-in" if mine == name else "/admin", status_code=303)
