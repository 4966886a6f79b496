"""The history of the configuration: its versions, who put which in force, when and why."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from broker.db.reports.reading import Reader, mappings
from broker.db.repositories.configurations import IN_FORCE, NEWEST, change_of
from broker.db.schema import CONFIGURATION, CONFIGURATION_CHANGE
from broker.errors import NotFound
from broker.workflow.configuration_port import ConfigurationChange, ConfigurationVersion
from broker.workflow.reports_port import MOST_ROWS

_MAX_CHANGES = MOST_ROWS


class SqlConfigurationReports(Reader):
    """Implements the ConfigurationReports port."""

    def configuration_changes(
        self, *, before: int | None = None, limit: int = 50
    ) -> Sequence[ConfigurationChange]:
        """Answer changes, newest first; `before` is the id of the last one seen."""
        statement = NEWEST if before is None else NEWEST.where(CONFIGURATION_CHANGE.c.id < before)
        with self._reading() as connection:
            rows = mappings(connection, statement.limit(max(0, min(limit, _MAX_CHANGES))))
        return [change_of(row) for row in rows]

    def configuration_version(self, version: int) -> ConfigurationVersion:
        """Answer a version. Raises NotFound."""
        with self._reading() as connection:
            rows = mappings(connection, select(CONFIGURATION).where(CONFIGURATION.c.id == version))
        if not rows:
            raise NotFound("There is no such configuration version.")
        (row,) = rows
        return ConfigurationVersion(row["id"], row["sha256"], row["body"], row["loaded_at"])

    def configuration_in_force(self) -> ConfigurationChange | None:
        """Answer the change that came into force last."""
        with self._reading() as connection:
            rows = mappings(connection, IN_FORCE)
        return change_of(rows[0]) if rows else None

    def configuration_known_as(self, sha256: str) -> int | None:
        """Answer the version that has this digest."""
        with self._reading() as connection:
            rows = mappings(connection, select(CONFIGURATION.c.id).where(CONFIGURATION.c.sha256 == sha256))
        return int(rows[0]["id"]) if rows else None
