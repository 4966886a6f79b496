"""Alembic's entry: runs on the connection, and in the transaction, broker.db.migrate gives it."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from broker.db.columns import UtcDateTime
from broker.db.schema import METADATA


def _render(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    # A revision must not change when our types do.
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


_connection = context.config.attributes["connection"]
context.configure(
    connection=_connection,
    target_metadata=METADATA,
    render_as_batch=True,
    render_item=_render,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
