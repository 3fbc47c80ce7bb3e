"""The reminders of sessions, and when the next one is due."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("session", sa.Column("reminders", sa.String(), nullable=True))
    op.add_column("session", sa.Column("remind_at", sa.BigInteger(), nullable=True))
    remind = sa.text("remind_at IS NOT NULL")
    op.create_index(
        "session_remind", "session", ["remind_at", "created_at", "id"], sqlite_where=remind, postgresql_where=remind
    )
