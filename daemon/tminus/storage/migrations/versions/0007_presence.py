"""People who are connected to the daemons' own rooms, and the leases of these daemons."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "presence",
        sa.Column("participant_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("resume_sha256", sa.String(), nullable=False),
        sa.Column("daemon", sa.String(), nullable=False),
        sa.Column("connection", sa.String(), nullable=False),
        sa.Column("gone_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["session_id"], ["session.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("participant_id"),
        sa.UniqueConstraint("resume_sha256"),
    )
    op.create_index("ix_presence_session_id", "presence", ["session_id"])
    op.create_index("presence_daemon", "presence", ["daemon", "participant_id"])
    gone = sa.text("gone_at IS NOT NULL")
    op.create_index(
        "presence_gone", "presence", ["gone_at", "participant_id"], sqlite_where=gone, postgresql_where=gone
    )
    op.create_table(
        "lease",
        sa.Column("daemon", sa.String(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("daemon"),
    )
    present = sa.text("left_at IS NULL")
    op.create_index(
        "participant_present",
        "participant",
        ["session_id", "joined_at", "id"],
        sqlite_where=present,
        postgresql_where=present,
    )
