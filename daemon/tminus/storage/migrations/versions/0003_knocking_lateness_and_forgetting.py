"""Add columns for participants who wait to be admitted and for overdue sessions, and indexes for retention."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("participant", sa.Column("waiting_since", sa.BigInteger(), nullable=True))
    op.add_column("session", sa.Column("late_since", sa.BigInteger(), nullable=True))
    op.create_index("retry_created", "retry", ["created_at"])
    op.create_index("agent_session_expires", "agent_session", ["expires_at"])
