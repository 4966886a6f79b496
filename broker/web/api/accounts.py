"""Accounts, sessions and tokens as JSON: the same operations as the Admin page and `broker users`, `broker tokens`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from broker.domain.access import LONGEST_TOKEN, Role
from broker.errors import InvalidValue, NotFound
from broker.web.access import TheAdmin, TheViewer
from broker.web.api.once import HEADER
from broker.web.api.reading import TheIds, TheWhole
from broker.web.pages import Id, Name, TheDashboard
from broker.workflow.accounts_port import Account, ApiToken, Session

router = APIRouter()
Text = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00]*$")]


class AccountLine(BaseModel):
    """Somebody who may sign in."""

    name: str
    role: Role
    is_disabled: bool
    created_at: datetime
    password_changed_at: datetime
    last_sign_in_at: datetime | None


class SessionLine(BaseModel):
    """A browser that has signed in."""

    id: int
    name: str
    """Of its account."""
    role: Role
    address: str
    created_at: datetime
    seen_at: datetime


class TokenLine(BaseModel):
    """What a program shows instead of a password; the token itself is not known here."""

    id: int
    label: str
    role: Role
    issued_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


class IssuedToken(BaseModel):
    """A token that was made."""

    id: int
    token: str
    """Not shown again: only its hash is kept."""


class Myself(BaseModel):
    """Who is asking."""

    name: str
    role: Role
    kind: str
    """`session` or `token`."""


class Changed(BaseModel):
    """What came of a change."""

    name: str
    changed: bool
    """False: it was so already."""


class Ended(BaseModel):
    """What came of ending something."""

    id: int
    ended: bool
    """False: it had ended already."""


class NewAccount(BaseModel):
    """Who is to be let in, as what."""

    model_config = ConfigDict(extra="forbid")

    name: Text
    role: Role = Role.VIEWER
    password: Text
    """A first one, of twelve characters at least, which its person changes."""


class NewRole(BaseModel):
    """What an account may do."""

    model_config = ConfigDict(extra="forbid")

    role: Role


class NewPassword(BaseModel):
    """Another password."""

    model_config = ConfigDict(extra="forbid")

    password: Text


class NewToken(BaseModel):
    """Which program is to be let in, as what, and for how long."""

    model_config = ConfigDict(extra="forbid")

    label: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
    """Who uses it."""
    role: Role = Role.VIEWER
    days: Annotated[int, Field(ge=1, le=LONGEST_TOKEN.days)] = 90


@router.get("/api/session")
def myself(who: TheViewer) -> Myself:
    """Say who is asking, and what they may do."""
    return Myself(name=who.name, role=who.role, kind="token" if who.session is None else "session")


@router.get("/api/accounts")
def accounts(board: TheDashboard, _: TheAdmin, part: TheWhole) -> list[AccountLine]:
    """List accounts by name."""
    found = board.access.reports.accounts()
    return [_account(one) for one in part.part(found, lambda one: one.name)]


@router.post("/api/accounts", status_code=201)
def add(board: TheDashboard, who: TheAdmin, wanted: NewAccount) -> AccountLine:
    """Add an account."""
    name = board.access.accounts.add(wanted.name, wanted.role, wanted.password, by=who.caller)
    return account(board, who, name)


@router.get("/api/accounts/{name}")
def account(board: TheDashboard, _: TheAdmin, name: Name) -> AccountLine:
    """Show one account."""
    found = board.access.reports.account(name)
    if found is None:
        raise NotFound("There is no such account.")
    return _account(found)


@router.post("/api/accounts/{name}/role")
def change_role(board: TheDashboard, who: TheAdmin, name: Name, wanted: NewRole) -> Changed:
    """Give an account another role; its sessions end."""
    return Changed(name=name, changed=board.access.accounts.change_role(name, wanted.role, by=who.caller))


@router.post("/api/accounts/{name}/disable")
def disable(board: TheDashboard, who: TheAdmin, name: Name) -> Changed:
    """Let an account in no longer; its sessions end at once."""
    return Changed(name=name, changed=board.access.accounts.disable(name, by=who.caller))


@router.post("/api/accounts/{name}/enable")
def enable(board: TheDashboard, who: TheAdmin, name: Name) -> Changed:
    """Let a disabled account in again."""
    return Changed(name=name, changed=board.access.accounts.enable(name, by=who.caller))


@router.post("/api/accounts/{name}/password")
def set_password(board: TheDashboard, who: TheAdmin, name: Name, wanted: NewPassword) -> Changed:
    """Give an account another password; its sessions end."""
    board.access.accounts.set_password(name, wanted.password, by=who.caller)
    return Changed(name=name, changed=True)


@router.get("/api/sessions")
def sessions(board: TheDashboard, _: TheAdmin, part: TheIds) -> list[SessionLine]:
    """List the browsers that have signed in and have not run out, newest first."""
    found = board.access.sign_in.open_sessions(before=part.after_id, limit=part.most)
    return [_session(one) for one in part.shown(found, lambda one: one.id)]


@router.post("/api/sessions/{session_id}/end")
def end_session(board: TheDashboard, who: TheAdmin, session_id: Id) -> Ended:
    """Sign a browser out, wherever it is."""
    return Ended(id=session_id, ended=board.access.accounts.end_session(session_id, by=who.caller))


@router.get("/api/tokens")
def tokens(board: TheDashboard, _: TheAdmin, part: TheWhole) -> list[TokenLine]:
    """List tokens of programs, the newest first."""
    found = board.access.reports.api_tokens()
    return [_token(one) for one in part.part(found, lambda one: one.id)]


@router.post("/api/tokens", status_code=201)
def issue(request: Request, board: TheDashboard, who: TheAdmin, wanted: NewToken) -> IssuedToken:
    """Make a token and answer it, once. What was answered is kept nowhere: an `Idempotency-Key` is refused."""
    if HEADER in request.headers:
        raise InvalidValue(f"{HEADER}: each request makes another token", field=HEADER)
    key, token = board.access.tokens.issue(
        wanted.label, wanted.role, life=timedelta(days=wanted.days), by=who.caller
    )
    return IssuedToken(id=key, token=token)


@router.post("/api/tokens/{token_id}/revoke")
def revoke(board: TheDashboard, who: TheAdmin, token_id: Id) -> Ended:
    """Take a token back; it opens nothing any longer."""
    return Ended(id=token_id, ended=board.access.tokens.revoke(token_id, by=who.caller))


def _account(one: Account) -> AccountLine:
    return AccountLine(
        name=one.name,
        role=one.role,
        is_disabled=one.is_disabled,
        created_at=one.created_at,
        password_changed_at=one.password_changed_at,
        last_sign_in_at=one.last_sign_in_at,
    )


def _session(one: Session) -> SessionLine:
    return SessionLine(
        id=one.id,
        name=one.name,
        role=one.role,
        address=one.address,
        created_at=one.created_at,
        seen_at=one.seen_at,
    )


def _token(one: ApiToken) -> TokenLine:
    return TokenLine(**asdict(one))
