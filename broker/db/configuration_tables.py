"""Table of what became of configuration versions: who put which in force, when and why."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import SQLModel

from broker.db.tables import _fk, _id, _instant, _str


class ConfigurationChangeRow(SQLModel, table=True):
    """A version was put into the site file by a person, or found there by a role that started."""

    __tablename__ = "configuration_change"
    id: int | None = _id()
    configuration: int = _fk("configuration.id")
    before: int | None = _fk("configuration.id", nullable=True, index=False)
    """What stood in the site file until then."""
    how: str = _str(16, nullable=False)
    """found, applied, rolled back."""
    actor: str = _str(128, nullable=False)
    reason: str = _str(500, nullable=False)
    at: datetime = _instant()
    in_force_at: datetime | None = _instant(nullable=True)
    """When the first role ran on it; None: it waits for a reload, or never came so far."""
    problem: str | None = _str(500)
    """Why the site file could not be written; None: it was."""
