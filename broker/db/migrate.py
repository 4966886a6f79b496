"""Brings the database to the schema this version needs, and refuses one that is newer.

`broker.db.revisions` says whether there is anything to do.

python -m broker.db.migrate "Add the table of …"     writes the next revision from the tables
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

from broker.db.engine import open_engine
from broker.db.revisions import known_revisions, newest_revision, revision_of
from broker.db.schema import METADATA
from broker.errors import ConfigurationError

_MIGRATION_LOCK = 0x776B6C73
"""Of PostgreSQL: one process migrates, the others wait and find nothing left to do."""


def migrate(engine: Engine) -> str:
    """Upgrade to this version's schema, under a lock, in one transaction; answer its revision.

    Raises ConfigurationError when the schema is newer than this version knows.
    """
    with _schema_transaction(engine) as connection:
        revision_of(connection)  # refuses a newer one
        command.upgrade(_config(connection), "head")
        return newest_revision()


def differences(engine: Engine) -> list[str]:
    """Answer what the tables in the code and in the database do not have in common."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [repr(difference) for difference in compare_metadata(context, METADATA)]


@contextmanager
def _schema_transaction(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            with connection.begin():
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                yield connection
            return
        # SQLite alters a table by making it anew, which foreign keys would take for a deletion; the setting
        # cannot change inside a transaction, so it is off before and checked at the end.
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():  # immediate: a second process waits here
                yield connection
                if connection.execute(text("PRAGMA foreign_key_check")).first() is not None:
                    raise ConfigurationError("a migration would leave rows that refer to nothing")
        finally:
            driver.execute("PRAGMA foreign_keys=ON")


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "broker.db:migrations")
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def write_revision(message: str) -> None:
    """Write the revision that leads from the newest one to the tables in the code."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(f"sqlite:///{Path(folder) / 'schema.sqlite3'}")
        with _schema_transaction(engine) as connection:
            config = _config(connection)
            command.upgrade(config, "head")
            number = len(known_revisions()) + 1
            command.revision(config, message, autogenerate=True, rev_id=f"{number:04d}")
        engine.dispose()


if __name__ == "__main__":
    write_revision(sys.argv[1])
