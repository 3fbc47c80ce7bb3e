"""Sessions with the same start are listed in the order in which they were created."""

from alembic import op

revision = "0020"
down_revision = "0019"

LISTED = ["status", "type", "start_time", "created_at", "id", "updated_at", "expires_at"]


def upgrade() -> None:
    op.drop_index("session_owner_start", "session")
    op.drop_index("session_start", "session")
    op.create_index("session_owner_start", "session", ["agent_id", *LISTED])
    op.create_index("session_start", "session", LISTED)
