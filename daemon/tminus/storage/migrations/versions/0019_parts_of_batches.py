"""Batches that are being done, and their parts."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "batch",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("agent_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(), nullable=True),
        sa.Column("caller", sa.String(), nullable=False),
        sa.Column("session_ids", sa.JSON(), nullable=False),
        sa.Column("starts", sa.JSON(), nullable=True),
        sa.Column("pins", sa.JSON(), nullable=True),
        sa.Column("remaining", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("batch_agent", "batch", ["agent_id", "key"])
    op.create_table(
        "batch_part",
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "number"),
    )
    op.create_index("batch_part_created", "batch_part", ["created_at"])
