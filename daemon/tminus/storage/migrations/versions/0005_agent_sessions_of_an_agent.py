"""Add an index that finds an agent's oldest agent sessions, which end when the agent has too many."""

from alembic import op

revision = "0005"
down_revision = "0004"

DIGEST = "ee6d5e94d0e875bd3b2cc5a7fc6ffb4539451861590ef73d2e9228cc582e0af2"


def upgrade() -> None:
    op.create_index("agent_session_agent", "agent_session", ["agent_id", "sid"])
