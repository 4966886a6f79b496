"""Which schema a database has and which one this version needs, asked without Alembic: most starts migrate nothing."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from broker.db.engine import reading
from broker.errors import ConfigurationError

_VERSIONS = Path(__file__).with_name("migrations") / "versions"


def known_revisions() -> tuple[str, ...]:
    """Answer every revision this version knows, oldest first; each is the number its file's name begins with."""
    return tuple(sorted(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*.py")))


def newest_revision() -> str:
    """Answer the schema this version needs."""
    return known_revisions()[-1]


def revision_of(connection: Connection) -> str | None:
    """Answer the schema a database has. Raises ConfigurationError when it is newer than this version knows."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar_one_or_none()
    if found is not None and found not in known_revisions():
        raise ConfigurationError(
            f"the database has schema {found}, which this version does not know: it is newer than the program"
        )
    return found


def is_current(engine: Engine) -> bool:
    """Tell whether the database has the schema of this version. Raises ConfigurationError when it is newer."""
    with reading(engine) as connection:
        return revision_of(connection) == newest_revision()
