"""Changes of the configuration, as stored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, Select, select, update

from broker.db.encoding import storable
from broker.db.schema import CONFIGURATION, CONFIGURATION_CHANGE
from broker.db.transaction import Transaction
from broker.workflow.configuration_port import ConfigurationChange, How

NEWEST = select(CONFIGURATION_CHANGE).order_by(CONFIGURATION_CHANGE.c.id.desc())
IN_FORCE = (
    NEWEST.where(CONFIGURATION_CHANGE.c.in_force_at.is_not(None))
    .order_by(None)
    .order_by(CONFIGURATION_CHANGE.c.in_force_at.desc(), CONFIGURATION_CHANGE.c.id.desc())
    .limit(1)
)


class SqlConfigurations:
    """Implements the Configurations port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def newest_change(self) -> ConfigurationChange | None:
        """Answer the last change."""
        return self._one(NEWEST.limit(1))

    def in_force(self) -> ConfigurationChange | None:
        """Answer the change that came into force last."""
        return self._one(IN_FORCE)

    def add_change(self, change: ConfigurationChange) -> int:
        """Store a change (its `id` is ignored), answer its id."""
        values = {
            "configuration": change.version,
            "before": change.before,
            "how": change.how.value,
            "actor": storable(change.actor, 128),
            "reason": storable(change.reason, 500),
            "at": change.at,
            "in_force_at": change.in_force_at,
            "problem": change.problem,
        }
        return self._transaction.insert(CONFIGURATION_CHANGE, values)

    def came_into_force(self, change: int, *, now: datetime) -> None:
        """Keep when the first role ran on it."""
        self._set(change, in_force_at=now)

    def failed(self, change: int, problem: str) -> None:
        """Keep why the site file could not be written."""
        self._set(change, problem=storable(problem, 500))

    def version_of(self, sha256: str) -> int | None:
        """Answer the version that has this digest."""
        known = select(CONFIGURATION.c.id).where(CONFIGURATION.c.sha256 == sha256)
        found = self._transaction.execute(known).scalar_one_or_none()
        return None if found is None else int(found)

    def _one(self, statement: Select[Any]) -> ConfigurationChange | None:
        row = self._transaction.execute(statement).mappings().first()
        return None if row is None else change_of(row)

    def _set(self, change: int, **values: Any) -> None:
        table = CONFIGURATION_CHANGE
        self._transaction.execute(update(table).where(table.c.id == change).values(values))


def change_of(row: RowMapping) -> ConfigurationChange:
    """Answer a stored change."""
    return ConfigurationChange(
        id=row["id"],
        version=row["configuration"],
        before=row["before"],
        how=How(row["how"]),
        actor=row["actor"],
        reason=row["reason"],
        at=row["at"],
        in_force_at=row["in_force_at"],
        problem=row["problem"],
    )
