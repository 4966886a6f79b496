"""Heartbeats: every running role says what it saw when it last proved itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Engine, Table, delete, insert, update

from broker.db.tables import HeartbeatRow

_TABLE: Table = HeartbeatRow.__table__  # type: ignore[attr-defined]
FORGOTTEN_AFTER = timedelta(hours=1)
"""Rows of processes that ended without saying so."""


def beat(
    engine: Engine,
    *,
    role: str,
    host: str,
    pid: int,
    started_at: datetime,
    now: datetime,
    details: Mapping[str, object],
) -> None:
    """Write that a role is alive, and forget those that have long been silent."""
    mine = (_TABLE.c.role == role) & (_TABLE.c.host == host) & (_TABLE.c.pid == pid)
    values = {"started_at": started_at, "beat_at": now, "details": dict(details)}
    with engine.begin() as connection:
        if not connection.execute(update(_TABLE).where(mine).values(values)).rowcount:
            connection.execute(insert(_TABLE).values(role=role, host=host, pid=pid, **values))
            connection.execute(delete(_TABLE).where(_TABLE.c.beat_at < now - FORGOTTEN_AFTER))


def retire(engine: Engine, *, role: str, host: str, pid: int) -> None:
    """Take back the heartbeat of a role that ends in order."""
    with engine.begin() as connection:
        connection.execute(
            delete(_TABLE).where((_TABLE.c.role == role) & (_TABLE.c.host == host) & (_TABLE.c.pid == pid))
        )
