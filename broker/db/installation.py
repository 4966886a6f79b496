"""The identity of this installation, made at the first start and never changed."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Engine, select

from broker.db.schema import INSTALLATION
from broker.db.transaction import Transaction


def uid_namespace(engine: Engine, *, now: datetime) -> UUID:
    """Answer the namespace derived UIDs are made in. Safe to call from several processes at the first start."""
    with closing(Transaction(engine)) as transaction:
        row = {"id": 1, "uid_namespace": str(uuid4()), "created_at": now}
        transaction.execute(transaction.insert_ignoring(INSTALLATION), row)
        known = select(INSTALLATION.c.uid_namespace).where(INSTALLATION.c.id == 1)
        namespace = UUID(transaction.execute(known).scalar_one())
        transaction.commit()
        return namespace
