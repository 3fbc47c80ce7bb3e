"""The tables: the model's classes, with keys and indices. `migrations` brings a database to just this shape."""

from typing import Any

from sqlalchemy import BigInteger, Index, Integer, text
from sqlmodel import Field, SQLModel

from tminus import model

# SQLite numbers rows by itself only where the column is exactly INTEGER.
Serial = BigInteger().with_variant(Integer(), "sqlite")


def _where(condition: str) -> dict[str, Any]:
    """Restricts an index to the rows of which this is true, on either database."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class SessionRow(model.Session, table=True):
    """The sessions, and thereby the schedule: what is due is asked of this table and kept nowhere else."""

    __tablename__ = "session"

    id: str = Field(primary_key=True)

    __table_args__ = (
        # The clock's only question, in the order in which it is answered.
        Index("session_due", "due_at", "created_at", "id", **_where("due_at IS NOT NULL")),
        # A PIN belongs to one open session; 0 is none.
        Index("session_pin", "pin", unique=True, **_where("pin <> 0")),
        # How many are open, in each status: asked by each heartbeat and each scrape, of a million rows as well.
        Index("session_open", "status", **_where("status <> 'closed'")),
        Index("session_agent", "agent_id", "created_at"),
        Index(
            "session_mapping", "external_mapping",
            **_where("external_mapping IS NOT NULL"),
        ),
        Index("session_closed", "closed_at", **_where("closed_at IS NOT NULL")),
    )  # fmt: skip


class ParticipantRow(model.Participant, table=True):
    __tablename__ = "participant"

    id: str = Field(primary_key=True)
    session_id: str = Field(foreign_key="session.id", ondelete="CASCADE", index=True)


class EventRow(model.Event, table=True):
    """What happened, in the order in which it was committed; written in the transaction of the change itself."""

    __tablename__ = "event"
    __table_args__ = ({"sqlite_autoincrement": True},)  # or SQLite would give a removed event's number again

    seq: int = Field(default=None, primary_key=True, sa_type=Serial)
    session_id: str = Field(foreign_key="session.id", ondelete="CASCADE", index=True)


class AgentSessionRow(model.AgentSession, table=True):
    __tablename__ = "agent_session"
    __table_args__ = (Index("agent_session_expires", "expires_at"), {"sqlite_autoincrement": True})

    sid: int = Field(default=None, primary_key=True)
    secret_sha256: str = Field(unique=True)


class RetryRow(model.Retry, table=True):
    __tablename__ = "retry"
    __table_args__ = (Index("retry_created", "created_at"),)

    agent_id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    key: str = Field(primary_key=True)
    session_id: str = Field(foreign_key="session.id", ondelete="CASCADE", index=True)


class EndpointRow(model.Endpoint, table=True):
    """A row stays when its webhook leaves the configuration: put back, it goes on where it was."""

    __tablename__ = "endpoint"

    name: str = Field(primary_key=True)
    cursor: int = Field(sa_type=BigInteger)
    batch_until: int | None = Field(default=None, sa_type=BigInteger)


class ReplayRow(model.Replay, table=True):
    __tablename__ = "replay"
    __table_args__ = (Index("replay_endpoint", "endpoint", "id"), {"sqlite_autoincrement": True})

    id: int = Field(default=None, primary_key=True)
    cursor: int = Field(sa_type=BigInteger)
    until: int = Field(sa_type=BigInteger)


class DeliveryRow(model.Delivery, table=True):
    __tablename__ = "delivery"
    __table_args__ = (
        Index("delivery_endpoint", "endpoint", "id"),
        Index("delivery_at", "at"),
        {"sqlite_autoincrement": True},
    )

    id: int = Field(default=None, primary_key=True, sa_type=Serial)
    first_seq: int | None = Field(default=None, sa_type=BigInteger)
    last_seq: int | None = Field(default=None, sa_type=BigInteger)


class MetaRow(SQLModel, table=True):
    """What a database knows of itself: its id, the time-outs that its deadlines were reckoned with, and when a daemon
    last wrote to see whether it can.
    """

    __tablename__ = "meta"

    key: str = Field(primary_key=True)
    value: str


_tables = SQLModel.metadata.tables
SESSIONS, EVENTS, PARTICIPANTS = _tables["session"], _tables["event"], _tables["participant"]
AGENT_SESSIONS, RETRIES, META = _tables["agent_session"], _tables["retry"], _tables["meta"]
ENDPOINTS, REPLAYS, DELIVERIES = _tables["endpoint"], _tables["replay"], _tables["delivery"]
