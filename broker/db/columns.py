"""What columns of tables are made of. Tables store; validation lives in the domain, so nothing here checks a value.

Instants are UTC (`UtcDateTime`); DICOM dates and times are site wall-clock text. Times of hot ordering and
leases are the database's own clock where processes must agree.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Column, Field, SQLModel

SQLModel.metadata.naming_convention = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
).naming_convention
SQLModel.model_config["defer_build"] = True  # of validators nobody calls


class UtcDateTime(TypeDecorator[datetime]):
    """Stores aware instants in UTC and answers them aware, on SQLite too."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse a naive instant, store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Answer an aware UTC instant."""
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


Json = JSON().with_variant(postgresql.JSONB(), "postgresql")
Id = BigInteger().with_variant(Integer(), "sqlite")


def id_column() -> Any:  # SQLModel fields are typed by their annotation
    """Define a primary key the database counts up."""
    return Field(default=None, sa_column=Column(Id, primary_key=True, autoincrement=True))


def reference_column(target: str, *, nullable: bool = False, index: bool = True) -> Any:
    """Define the id of a row of another table: `reference_column("instance.id")`."""
    return Field(default=None, sa_column=Column(Id, ForeignKey(target), nullable=nullable, index=index))


def instant_column(*, nullable: bool = False, index: bool = False) -> Any:
    """Define an instant."""
    return Field(default=None, sa_column=Column(UtcDateTime(), nullable=nullable, index=index))


def json_column() -> Any:
    """Define an object, kept as JSON."""
    return Field(default_factory=dict, sa_column=Column(Json, nullable=False))


def bytes_column(*, nullable: bool = True) -> Any:
    """Define octets without a bound of their own."""
    return Field(default=None, sa_column=Column(LargeBinary, nullable=nullable))


def text_column() -> Any:
    """Define a text without a bound of its own; NULL where it is unknown."""
    return Field(default=None, sa_column=Column(Text, nullable=True))


def string_column(length: int, *, nullable: bool = True, index: bool = False) -> Any:
    """Define a text of at most so many characters."""
    return Field(default=None, sa_column=Column(String(length), nullable=nullable, index=index))


def partial_index(name: str, *columns: str, holds: str, unique: bool = False) -> Index:
    """Define an index of the rows for which a condition holds."""
    return Index(name, *columns, unique=unique, sqlite_where=text(holds), postgresql_where=text(holds))
