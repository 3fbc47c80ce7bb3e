"""Series that the configuration has."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("series", sa.Column("entry", sa.String(), nullable=True))
    open_entries = sa.text("entry IS NOT NULL AND ended_at IS NULL")
    op.create_index("series_entry", "series", ["entry"], sqlite_where=open_entries, postgresql_where=open_entries)
