"""Find performed steps by study.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_EACH = {
    "sqlite": "SELECT DISTINCT named.value, step.id FROM performed_procedure_step AS step,"
    " json_each(step.study_instance_uids) AS named",
    "postgresql": "SELECT DISTINCT named.value, step.id FROM performed_procedure_step AS step,"
    " jsonb_array_elements_text(step.study_instance_uids) AS named(value)",
}


def upgrade() -> None:
    op.create_table(
        "performed_study",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column(
            "performed",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["performed"],
            ["performed_procedure_step.id"],
            name=op.f("fk_performed_study_performed"),
        ),
        sa.PrimaryKeyConstraint("study_instance_uid", "performed", name=op.f("pk_performed_study")),
    )
    with op.batch_alter_table("performed_study", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_performed_study_performed"), ["performed"], unique=False)
    op.execute(
        f"INSERT INTO performed_study (study_instance_uid, performed) {_EACH[op.get_bind().dialect.name]}"
    )


def downgrade() -> None:
    op.drop_table("performed_study")
