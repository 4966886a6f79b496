"""Find a step by its id; list messages by sender and by type.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_hl7_message_sender_received", "hl7_message", ["sending_application", "received_at"])
    op.create_index("ix_hl7_message_type_received", "hl7_message", ["message_type", "received_at"])
    op.create_index("ix_step_sps_id", "scheduled_procedure_step", ["scheduled_procedure_step_id"])


def downgrade() -> None:
    op.drop_index("ix_step_sps_id", "scheduled_procedure_step")
    op.drop_index("ix_hl7_message_type_received", "hl7_message")
    op.drop_index("ix_hl7_message_sender_received", "hl7_message")
