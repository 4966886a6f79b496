"""Accounts, sessions of the pages and tokens of programs, as stored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, or_, select, update

from broker.db.encoding import storable
from broker.db.schema import ACCOUNT, API_TOKEN, WEB_SESSION
from broker.db.transaction import Transaction
from broker.domain.access import Role
from broker.errors import NotFound
from broker.workflow.accounts_port import Account, ApiToken


class SqlAccounts:
    """Implements the Accounts port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def any(self) -> bool:
        """Tell whether there is an account."""
        return self._transaction.execute(select(ACCOUNT.c.id).limit(1)).first() is not None

    def add(self, name: str, role: Role, password_hash: str, *, now: datetime) -> int:
        """Store an account and answer its id. Raises DuplicateKey."""
        return self._transaction.insert(
            ACCOUNT,
            {
                "name": name,
                "role": role.value,
                "password_hash": password_hash,
                "is_disabled": False,
                "created_at": now,
                "password_changed_at": now,
            },
        )

    def find(self, name: str) -> Account | None:
        """Answer the account of a name, disabled or not."""
        found = self._transaction.execute(select(ACCOUNT).where(ACCOUNT.c.name == name)).mappings().first()
        return None if found is None else account_of(found)

    def change_role(self, account: int, role: Role) -> None:
        """Give it another role."""
        self._change(account, role=role.value)

    def disable(self, account: int, *, disabled: bool) -> None:
        """Let it in no longer, or again."""
        self._change(account, is_disabled=disabled)

    def change_password(self, account: int, password_hash: str, *, now: datetime) -> None:
        """Give it another password."""
        self._change(account, password_hash=password_hash, password_changed_at=now)

    def signed_in(self, account: int, *, now: datetime) -> None:
        """Remember when it came last."""
        self._change(account, last_sign_in_at=now)

    def count_admins(self) -> int:
        """Count the admins that are not disabled."""
        admins = (
            select(func.count())
            .select_from(ACCOUNT)
            .where(ACCOUNT.c.role == Role.ADMIN.value, ACCOUNT.c.is_disabled.is_(False))
        )
        return int(self._transaction.execute(admins).scalar_one())

    def _change(self, account: int, **values: Any) -> None:
        self._transaction.execute(update(ACCOUNT).where(ACCOUNT.c.id == account).values(**values))


class SqlSessions:
    """Implements the Sessions port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add(self, token_hash: bytes, account: int, address: str, *, now: datetime) -> None:
        """Store a session."""
        self._transaction.insert(
            WEB_SESSION,
            {
                "token_hash": token_hash,
                "account": account,
                "address": storable(address, 64),
                "created_at": now,
                "seen_at": now,
                "hides_names": False,
            },
        )

    def touch(self, session: int, *, now: datetime) -> None:
        """Remember that it was used."""
        self._change(session, seen_at=now)

    def hide_names(self, session: int, *, hide: bool) -> None:
        """Mask the names of patients on its pages, or no longer."""
        self._change(session, hides_names=hide)

    def end(self, token_hash: bytes) -> None:
        """End a session; nothing happens when there is none."""
        self._transaction.execute(delete(WEB_SESSION).where(WEB_SESSION.c.token_hash == token_hash))

    def end_one(self, session: int) -> tuple[int, str] | None:
        """End a session, answer id and name of its account; None when there is none."""
        whose = select(ACCOUNT.c.id, ACCOUNT.c.name).join(WEB_SESSION, WEB_SESSION.c.account == ACCOUNT.c.id)
        row = self._transaction.execute(whose.where(WEB_SESSION.c.id == session)).mappings().first()
        if row is None:
            return None
        self._transaction.execute(delete(WEB_SESSION).where(WEB_SESSION.c.id == session))
        return int(row["id"]), str(row["name"])

    def end_all(self, account: int) -> int:
        """End every session of an account, answer how many those were."""
        return self._transaction.execute(delete(WEB_SESSION).where(WEB_SESSION.c.account == account)).rowcount

    def keep_newest(self, account: int, count: int) -> None:
        """End all but the newest sessions of an account."""
        of_account = select(WEB_SESSION.c.id).where(WEB_SESSION.c.account == account)
        kept = self._transaction.execute(of_account.order_by(WEB_SESSION.c.id.desc()).limit(count)).scalars()
        self._transaction.execute(
            delete(WEB_SESSION).where(WEB_SESSION.c.account == account, WEB_SESSION.c.id.not_in(list(kept)))
        )

    def forget(self, *, seen_before: datetime, created_before: datetime) -> None:
        """Remove the sessions that have run out."""
        self._transaction.execute(
            delete(WEB_SESSION).where(
                or_(WEB_SESSION.c.seen_at < seen_before, WEB_SESSION.c.created_at < created_before)
            )
        )

    def _change(self, session: int, **values: Any) -> None:
        self._transaction.execute(update(WEB_SESSION).where(WEB_SESSION.c.id == session).values(**values))


class SqlApiTokens:
    """Implements the ApiTokens port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add(
        self,
        token_hash: bytes,
        label: str,
        role: Role,
        *,
        issued_by: str,
        now: datetime,
        expires_at: datetime,
    ) -> int:
        """Store a token and answer its id."""
        return self._transaction.insert(
            API_TOKEN,
            {
                "token_hash": token_hash,
                "label": storable(label, 64),
                "role": role.value,
                "issued_by": storable(issued_by, 128),
                "created_at": now,
                "expires_at": expires_at,
            },
        )

    def get(self, token: int) -> ApiToken:
        """Answer one. Raises NotFound."""
        row = self._transaction.execute(select(API_TOKEN).where(API_TOKEN.c.id == token)).mappings().first()
        if row is None:
            raise NotFound(f"There is no token {token}.")
        return api_token_of(row)

    def revoke(self, token: int, *, now: datetime) -> None:
        """Take it back; it opens nothing any longer."""
        self._change(token, revoked_at=now)

    def used(self, token: int, *, now: datetime) -> None:
        """Remember that it was used."""
        self._change(token, last_used_at=now)

    def _change(self, token: int, **values: Any) -> None:
        self._transaction.execute(update(API_TOKEN).where(API_TOKEN.c.id == token).values(**values))


def account_of(row: Any) -> Account:
    """Read an account from the mapping of a row."""
    return Account(
        id=row["id"],
        name=row["name"],
        role=Role(row["role"]),
        password_hash=row["password_hash"],
        is_disabled=bool(row["is_disabled"]),
        created_at=row["created_at"],
        password_changed_at=row["password_changed_at"],
        last_sign_in_at=row["last_sign_in_at"],
    )


def api_token_of(row: Any) -> ApiToken:
    """Read a token from the mapping of a row."""
    return ApiToken(
        id=row["id"],
        label=row["label"],
        role=Role(row["role"]),
        issued_by=row["issued_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )
