"""Keep who put which configuration version in force, when and why.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "configuration_change",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("configuration", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("before", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("how", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("in_force_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.String(length=500), nullable=True),
        sa.ForeignKeyConstraint(
            ["before"], ["configuration.id"], name=op.f("fk_configuration_change_before")
        ),
        sa.ForeignKeyConstraint(
            ["configuration"],
            ["configuration.id"],
            name=op.f("fk_configuration_change_configuration"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_configuration_change")),
    )
    with op.batch_alter_table("configuration_change", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_configuration_change_configuration"), ["configuration"], unique=False
        )

    # Each version known so far was in force when it was first read.
    op.execute(
        "INSERT INTO configuration_change (configuration, how, actor, reason, at, in_force_at) "
        "SELECT id, 'found', loaded_by, '', loaded_at, loaded_at FROM configuration ORDER BY id"
    )


def downgrade() -> None:
    with op.batch_alter_table("configuration_change", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_configuration_change_configuration"))

    op.drop_table("configuration_change")
