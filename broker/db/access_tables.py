"""Tables of accounts, of the sessions of the pages, and of the tokens of programs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, LargeBinary, String, Text
from sqlmodel import Field, SQLModel

from broker.db.columns import id_column, instant_column, reference_column, string_column


class AccountRow(SQLModel, table=True):
    """A person who may sign in. Never deleted: the audit trail names it."""

    __tablename__ = "account"
    id: int | None = id_column()
    name: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    role: str = string_column(16, nullable=False)
    password_hash: str = Field(sa_column=Column(Text, nullable=False))
    """Argon2id with its salt and parameters."""
    is_disabled: bool = False
    created_at: datetime = instant_column()
    password_changed_at: datetime = instant_column()
    last_sign_in_at: datetime | None = instant_column(nullable=True)


class WebSessionRow(SQLModel, table=True):
    """A browser that has signed in."""

    __tablename__ = "web_session"
    id: int | None = id_column()
    token_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False, unique=True))
    """SHA-256 of what the cookie holds: who reads the table cannot become anybody."""
    account: int = reference_column("account.id")
    address: str = string_column(64, nullable=False)
    created_at: datetime = instant_column()
    seen_at: datetime = instant_column()
    hides_names: bool = False


class ApiTokenRow(SQLModel, table=True):
    """What a program shows instead of a password."""

    __tablename__ = "api_token"
    id: int | None = id_column()
    token_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False, unique=True))
    label: str = string_column(64, nullable=False)
    role: str = string_column(16, nullable=False)
    issued_by: str = string_column(128, nullable=False)
    created_at: datetime = instant_column()
    expires_at: datetime = instant_column()
    revoked_at: datetime | None = instant_column(nullable=True)
    last_used_at: datetime | None = instant_column(nullable=True)
