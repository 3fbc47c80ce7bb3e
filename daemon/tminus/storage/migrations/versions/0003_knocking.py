"""Participants who wait to be let in."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("participant", sa.Column("waiting_since", sa.BigInteger(), nullable=True))
