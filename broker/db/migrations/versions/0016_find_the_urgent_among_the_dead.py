"""Find the urgent among the dead.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None
_HOLDS = "state = 'DEAD' AND priority <= 1"


def upgrade() -> None:
    op.create_index(
        "ix_delivery_dead_urgent",
        "delivery",
        ["destination", "id"],
        unique=False,
        sqlite_where=sa.text(_HOLDS),
        postgresql_where=sa.text(_HOLDS),
    )


def downgrade() -> None:
    op.drop_index("ix_delivery_dead_urgent", table_name="delivery")
