"""Tables of accounts, of the sessions of the pages, and of the tokens of programs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, LargeBinary, String, Text
from sqlmodel import Field, SQLModel

from broker.db.tables import _fk, _id, _instant, _str


class AccountRow(SQLModel, table=True):
    """A person who may sign in. Never deleted: the audit trail names it."""

    __tablename__ = "account"
    id: int | None = _id()
    name: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    role: str = _str(16, nullable=False)
    password_hash: str = Field(sa_column=Column(Text, nullable=False))
    """Argon2id with its salt and parameters."""
    is_disabled: bool = False
    created_at: datetime = _instant()
    password_changed_at: datetime = _instant()
    last_sign_in_at: datetime | None = _instant(nullable=True)


class WebSessionRow(SQLModel, table=True):
    """A browser that has signed in."""

    __tablename__ = "web_session"
    id: int | None = _id()
    token_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False, unique=True))
    """SHA-256 of what the cookie holds: who reads the table cannot become anybody."""
    account: int = _fk("account.id")
    address: str = _str(64, nullable=False)
    created_at: datetime = _instant()
    seen_at: datetime = _instant()
    hides_names: bool = False


class ApiTokenRow(SQLModel, table=True):
    """What a program shows instead of a password."""

    __tablename__ = "api_token"
    id: int | None = _id()
    token_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False, unique=True))
    label: str = _str(64, nullable=False)
    role: str = _str(16, nullable=False)
    issued_by: str = _str(128, nullable=False)
    created_at: datetime = _instant()
    expires_at: datetime = _instant()
    revoked_at: datetime | None = _instant(nullable=True)
    last_used_at: datetime | None = _instant(nullable=True)
