"""Find events by who did or looked: an audit asks that of all there ever were.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_event_actor", "event", ["actor", "name", "at"])


def downgrade() -> None:
    op.drop_index("ix_event_actor", "event")
