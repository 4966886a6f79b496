"""Accounts, sessions and tokens as the pages ask for them with every request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import RowMapping, select

from broker.db.reports.reading import Reader, mappings
from broker.db.repositories.accounts import account_of, api_token_of
from broker.db.schema import ACCOUNT, API_TOKEN, WEB_SESSION
from broker.domain.access import Role
from broker.workflow.accounts_port import Account, ApiToken, Session

MAX_ROWS = 1000
_SESSION = select(WEB_SESSION, ACCOUNT.c.name, ACCOUNT.c.role, ACCOUNT.c.is_disabled).join(
    ACCOUNT, ACCOUNT.c.id == WEB_SESSION.c.account
)


class AccountReports(Reader):
    """Implements the AccountReports port."""

    def has_accounts(self) -> bool:
        """Tell whether there is an account."""
        with self._reading() as connection:
            return connection.execute(select(ACCOUNT.c.id).limit(1)).first() is not None

    def accounts(self, *, since: str = "", limit: int = MAX_ROWS) -> Sequence[Account]:
        """List accounts by name, from a name or a beginning of one on."""
        asked = select(ACCOUNT).order_by(ACCOUNT.c.name).limit(max(0, min(limit, MAX_ROWS)))
        if since:
            asked = asked.where(ACCOUNT.c.name >= since)
        with self._reading() as connection:
            return [account_of(row) for row in mappings(connection, asked)]

    def account(self, name: str) -> Account | None:
        """Answer the account of a name."""
        with self._reading() as connection:
            rows = mappings(connection, select(ACCOUNT).where(ACCOUNT.c.name == name))
            return account_of(rows[0]) if rows else None

    def session(self, token_hash: bytes) -> Session | None:
        """Answer the session a token opens, with its account as it is now."""
        with self._reading() as connection:
            rows = mappings(connection, _SESSION.where(WEB_SESSION.c.token_hash == token_hash))
        return _session_of(rows[0]) if rows else None

    def open_sessions(
        self, *, seen_after: datetime, created_after: datetime, before: int | None = None, limit: int = 100
    ) -> Sequence[Session]:
        """Answer those of accounts that may sign in and that have not run out, newest first."""
        fresh = _SESSION.where(
            WEB_SESSION.c.seen_at > seen_after,
            WEB_SESSION.c.created_at > created_after,
            ACCOUNT.c.is_disabled.is_(False),
        ).order_by(WEB_SESSION.c.id.desc())
        if before is not None:
            fresh = fresh.where(WEB_SESSION.c.id < before)
        with self._reading() as connection:
            rows = mappings(connection, fresh.limit(max(0, min(limit, MAX_ROWS))))
        return [_session_of(row) for row in rows]

    def sessions(self, keys: Sequence[int]) -> Sequence[Session]:
        """Answer those of some ids that are there, each with its account as it is now."""
        if not keys:
            return []
        with self._reading() as connection:
            rows = mappings(connection, _SESSION.where(WEB_SESSION.c.id.in_(keys)))
        return [_session_of(row) for row in rows]

    def api_token(self, token_hash: bytes) -> ApiToken | None:
        """Answer the token of a hash, whether it still opens anything or not."""
        with self._reading() as connection:
            rows = mappings(connection, select(API_TOKEN).where(API_TOKEN.c.token_hash == token_hash))
            return api_token_of(rows[0]) if rows else None

    def api_tokens(self, *, before: int | None = None, limit: int = MAX_ROWS) -> Sequence[ApiToken]:
        """List tokens, newest first."""
        asked = select(API_TOKEN).order_by(API_TOKEN.c.id.desc()).limit(max(0, min(limit, MAX_ROWS)))
        if before is not None:
            asked = asked.where(API_TOKEN.c.id < before)
        with self._reading() as connection:
            return [api_token_of(row) for row in mappings(connection, asked)]

    def api_tokens_of(self, keys: Sequence[int]) -> Sequence[ApiToken]:
        """Answer those of some ids."""
        if not keys:
            return []
        with self._reading() as connection:
            rows = mappings(connection, select(API_TOKEN).where(API_TOKEN.c.id.in_(keys)))
            return [api_token_of(row) for row in rows]


def _session_of(row: RowMapping) -> Session:
    return Session(
        id=row["id"],
        account=row["account"],
        name=row["name"],
        role=Role(row["role"]),
        is_disabled=bool(row["is_disabled"]),
        address=row["address"],
        created_at=row["created_at"],
        seen_at=row["seen_at"],
        hides_names=bool(row["hides_names"]),
    )
