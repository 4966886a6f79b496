"""Heartbeats: a running role says that it is alive, and what it serves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timedelta

from sqlalchemy import Engine, and_, delete, update

from broker.db.schema import HEARTBEAT
from broker.db.transaction import Transaction

SILENT_AFTER = timedelta(seconds=30)
"""Six beats missed: it is gone."""
FORGET_AFTER = timedelta(days=1)


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
    """Write that a role is alive. Raises DatabaseUnavailable.

    With its first beat a process takes the place of those of its role and host that have fallen silent: what the
    supervisor has started again is not missing.
    """
    table = HEARTBEAT
    itself = and_(table.c.role == role, table.c.host == host, table.c.pid == pid)
    values = {"started_at": started_at, "beat_at": now, "details": dict(details)}
    with closing(Transaction(engine)) as transaction:
        if transaction.execute(update(table).where(itself).values(values)).rowcount == 0:
            silent = and_(table.c.role == role, table.c.host == host, table.c.beat_at < now - SILENT_AFTER)
            transaction.execute(delete(table).where(silent | (table.c.beat_at < now - FORGET_AFTER)))
            transaction.insert(table, {"role": role, "host": host, "pid": pid, **values})
        transaction.commit()


def retire(engine: Engine, *, role: str, host: str, pid: int) -> None:
    """Take the heartbeat of a role away that stops of its own will."""
    table = HEARTBEAT
    with closing(Transaction(engine)) as transaction:
        transaction.execute(
            delete(table).where(table.c.role == role, table.c.host == host, table.c.pid == pid)
        )
        transaction.commit()


def forget_host(engine: Engine, *, host: str) -> None:
    """Take away all heartbeats of a host, before anything is started there: the dead of a crash look alive."""
    with closing(Transaction(engine)) as transaction:
        transaction.execute(delete(HEARTBEAT).where(HEARTBEAT.c.host == host))
        transaction.commit()
