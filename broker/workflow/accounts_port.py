"""Accounts, sessions of the pages and tokens of the API, as use cases store and read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.domain.access import Role


@dataclass(frozen=True, slots=True)
class Account:
    """A person who may sign in."""

    id: int
    name: str
    role: Role
    password_hash: str
    is_disabled: bool
    created_at: datetime
    password_changed_at: datetime
    last_sign_in_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has signed in, with the account as it is now."""

    id: int
    account: int
    name: str
    role: Role
    is_disabled: bool
    address: str
    created_at: datetime
    seen_at: datetime
    hides_names: bool = False


@dataclass(frozen=True, slots=True)
class ApiToken:
    """What a program shows instead of a password."""

    id: int
    label: str
    role: Role
    issued_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class Accounts(Protocol):
    """Stored accounts."""

    def any(self) -> bool: ...
    def add(self, name: str, role: Role, password_hash: str, *, now: datetime) -> int:
        """Store an account and answer its id. Raises DuplicateKey."""
        ...

    def find(self, name: str) -> Account | None: ...
    def change_role(self, account: int, role: Role) -> None: ...
    def disable(self, account: int, *, disabled: bool) -> None: ...
    def change_password(self, account: int, password_hash: str, *, now: datetime) -> None: ...
    def signed_in(self, account: int, *, now: datetime) -> None: ...
    def count_admins(self) -> int:
        """Count the admins that are not disabled."""
        ...


class Sessions(Protocol):
    """Stored sessions; of the token that opens one only the hash is kept."""

    def add(self, token_hash: bytes, account: int, address: str, *, now: datetime) -> None: ...
    def touch(self, session: int, *, now: datetime) -> None: ...
    def hide_names(self, session: int, *, hide: bool) -> None: ...
    def end(self, token_hash: bytes) -> None: ...
    def end_one(self, session: int) -> tuple[int, str] | None:
        """End a session, answer id and name of its account; None when there is none."""
        ...

    def end_all(self, account: int) -> int:
        """End every session of an account, answer how many those were."""
        ...

    def keep_newest(self, account: int, count: int) -> None: ...
    def forget(self, *, seen_before: datetime, created_before: datetime) -> None:
        """Remove the sessions that have run out."""
        ...


class ApiTokens(Protocol):
    """Stored tokens of programs; only their hashes."""

    def add(
        self,
        token_hash: bytes,
        label: str,
        role: Role,
        *,
        issued_by: str,
        now: datetime,
        expires_at: datetime,
    ) -> int: ...
    def get(self, token: int) -> ApiToken:
        """Answer one. Raises NotFound."""
        ...

    def revoke(self, token: int, *, now: datetime) -> None: ...
    def used(self, token: int, *, now: datetime) -> None: ...


class AccountReports(Protocol):
    """Reads that wait for no writer."""

    def has_accounts(self) -> bool: ...
    def accounts(self, *, since: str = "", limit: int = 1000) -> Sequence[Account]:
        """List them by name, from a name or a beginning of one on."""
        ...

    def account(self, name: str) -> Account | None: ...
    def session(self, token_hash: bytes) -> Session | None: ...
    def open_sessions(
        self, *, seen_after: datetime, created_after: datetime, before: int | None = None, limit: int = 100
    ) -> Sequence[Session]:
        """Answer those of accounts that may sign in and that have not run out, newest first."""
        ...

    def sessions(self, keys: Sequence[int]) -> Sequence[Session]:
        """Answer those of some ids that are there."""
        ...

    def api_token(self, token_hash: bytes) -> ApiToken | None: ...
    def api_tokens(self, *, before: int | None = None, limit: int = 1000) -> Sequence[ApiToken]:
        """List them, newest first."""
        ...

    def api_tokens_of(self, keys: Sequence[int]) -> Sequence[ApiToken]:
        """Answer those of some ids."""
        ...


class PasswordHasher(Protocol):
    """Argon2id; slow and large by design, so only so many at once."""

    def hash(self, password: str) -> str:
        """Answer the hash with its salt and parameters. Raises OutOfResources when too many wait."""
        ...

    def verify(self, password_hash: str, password: str) -> bool:
        """Compare. Raises OutOfResources when too many wait."""
        ...

    def is_outdated(self, password_hash: str) -> bool: ...


class FirstRunToken(Protocol):
    """The one-time token that makes the first account; it lies where only the broker's user reads."""

    def ensure(self) -> str:
        """Answer the token, made when there is none."""
        ...

    def stored(self) -> str:
        """Answer the token; empty when there is none."""
        ...

    def forget(self) -> None: ...
