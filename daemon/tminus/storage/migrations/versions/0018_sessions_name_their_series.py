"""Sessions name the series that they belong to."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("session", sa.Column("series_id", sa.String(), nullable=True))
    op.add_column("session", sa.Column("series_start", sa.String(), nullable=True))
