"""Series of sessions, and the sessions that belong to them."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "series",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("agent_id", sa.Integer(), nullable=False),
        sa.Column("caller", sa.String(), nullable=False),
        sa.Column("definition", sa.String(), nullable=False),
        sa.Column("template", sa.String(), nullable=False),
        sa.Column("made_through", sa.String(), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("follows", sa.String(), nullable=True),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("body_sha256", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    due, keyed = sa.text("next_at IS NOT NULL"), sa.text("idempotency_key IS NOT NULL")
    op.create_index("series_next", "series", ["next_at", "id"], sqlite_where=due, postgresql_where=due)
    op.create_index("series_agent", "series", ["agent_id", "id"])
    op.create_index(
        "series_key",
        "series",
        ["agent_id", "idempotency_key"],
        unique=True,
        sqlite_where=keyed,
        postgresql_where=keyed,
    )
    op.create_table(
        "occurrence",
        sa.Column("series_id", sa.String(), nullable=False),
        sa.Column("local_start", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["session_id"], ["session.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("series_id", "local_start"),
    )
    op.create_index("ix_occurrence_session_id", "occurrence", ["session_id"])
