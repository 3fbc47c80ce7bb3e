"""The people who are invited to a session."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("session", sa.Column("invitees", sa.JSON(), nullable=True))
