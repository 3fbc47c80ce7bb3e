"""Add an index that finds an agent's oldest agent sessions, which end when the agent has too many."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index("agent_session_agent", "agent_session", ["agent_id", "sid"])
