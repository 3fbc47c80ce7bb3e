"""The people who are invited to a session."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

DIGEST = "298641c5b2ff777a7fa09db4aa8ad0a1a7d331dd5fc3525a1b435e74ced0a6ca"


def upgrade() -> None:
    op.add_column("session", sa.Column("invitees", sa.JSON(), nullable=True))
