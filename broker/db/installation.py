"""The identity of this installation, made at the first start and never changed."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Engine, insert, select

from broker.db.tables import InstallationRow


def uid_namespace(engine: Engine, *, now: datetime) -> UUID:
    """Answer the namespace derived UIDs are made in. Safe to call from several processes at the first start."""
    table = InstallationRow.__table__  # type: ignore[attr-defined]
    with engine.begin() as connection:
        found = connection.execute(select(table.c.uid_namespace).where(table.c.id == 1)).scalar()
        if found is None:
            made = str(uuid4())
            connection.execute(insert(table).values(id=1, uid_namespace=made, created_at=now))
            return UUID(made)
        return UUID(found)
