"""Answers to challenges, each of which counts once."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "challenge_use",
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("guessed_at", sa.BigInteger(), nullable=True),
        sa.Column("kept_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("uuid"),
    )
    guessed = sa.text("guessed_at IS NOT NULL")
    op.create_index(
        "challenge_use_guessed", "challenge_use", ["guessed_at"], sqlite_where=guessed, postgresql_where=guessed
    )
    op.create_index("challenge_use_kept", "challenge_use", ["kept_until"])
