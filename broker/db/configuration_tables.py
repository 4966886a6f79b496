"""Tables of configuration versions, and of who put which in force, when and why."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, Text
from sqlmodel import Column, Field, SQLModel

from broker.db.columns import id_column, instant_column, reference_column, string_column


class ConfigurationRow(SQLModel, table=True):
    """A configuration version that was in force."""

    __tablename__ = "configuration"
    id: int | None = id_column()
    sha256: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    body: str = Field(sa_column=Column(Text, nullable=False))
    """The site file, secrets excluded by construction (they live in the environment)."""
    loaded_at: datetime = instant_column()
    loaded_by: str = string_column(64, nullable=False)


class ConfigurationChangeRow(SQLModel, table=True):
    """A version was put into the site file by a person, or found there by a role that started."""

    __tablename__ = "configuration_change"
    id: int | None = id_column()
    configuration: int = reference_column("configuration.id")
    before: int | None = reference_column("configuration.id", nullable=True, index=False)
    """What stood in the site file until then."""
    how: str = string_column(16, nullable=False)
    """found, applied, rolled back."""
    actor: str = string_column(128, nullable=False)
    reason: str = string_column(500, nullable=False)
    at: datetime = instant_column()
    in_force_at: datetime | None = instant_column(nullable=True)
    """When the first role ran on it; None: it waits for a reload, or never came so far."""
    problem: str | None = string_column(500)
    """Why the site file could not be written; None: it was."""
