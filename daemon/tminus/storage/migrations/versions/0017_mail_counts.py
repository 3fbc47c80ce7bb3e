"""How many mails each agent has caused."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

DIGEST = "f5a9c5ae10bf02e421e15ef9c519526dca1fc946a195212a212c46ecc4607188"


def upgrade() -> None:
    op.create_table(
        "mail_count",
        sa.Column("agent_id", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("mails", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id"),
    )
