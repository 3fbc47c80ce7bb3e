"""Add an index for each query of callers, periodic jobs and operators."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("session_owner", "session", ["agent_id", "status", "type", "created_at", "id"])
    op.create_index(
        "session_owner_start",
        "session",
        ["agent_id", "status", "type", "start_time", "id", "created_at", "updated_at", "expires_at"],
    )
    op.create_index(
        "session_start",
        "session",
        ["status", "type", "start_time", "id", "created_at", "updated_at", "expires_at"],
    )
    op.create_index(
        "session_record",
        "session",
        ["external_mapping", "status", "created_at", "id"],
        sqlite_where=sa.text("external_mapping IS NOT NULL"),
        postgresql_where=sa.text("external_mapping IS NOT NULL"),
    )
    op.create_index(
        "session_open_id",
        "session",
        ["id"],
        sqlite_where=sa.text("status <> 'closed'"),
        postgresql_where=sa.text("status <> 'closed'"),
    )
    op.create_index("event_session", "event", ["session_id", "seq"])
    op.create_index("event_ts", "event", ["ts", "seq"])
    op.create_index("delivery_outcome", "delivery", ["endpoint", "ok", "id"])
    # Each of these is replaced by an index above that begins with the same columns.
    op.drop_index("session_agent", "session")
    op.drop_index("session_mapping", "session")
    op.drop_index("session_open", "session")
    op.drop_index("ix_event_session_id", "event")
