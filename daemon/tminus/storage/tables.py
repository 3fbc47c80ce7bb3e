"""The tables: the records of `domain.model`, with keys and indexes. The migrations create exactly these."""

from typing import Any

from sqlalchemy import BigInteger, Index, Integer, text
from sqlmodel import Field, SQLModel

from tminus.domain import model

# SQLite assigns numbers only to a column whose type is exactly INTEGER.
Serial = BigInteger().with_variant(Integer(), "sqlite")


def _where(condition: str) -> dict[str, Any]:
    """Return the arguments that restrict an index to the rows that fulfil a condition, on both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


LISTED = ("status", "type", "start_time", "created_at", "id", "updated_at", "expires_at")
"""The columns by which lists select and sort. A list is merged from one branch for each status and type.

Sessions are opened in the order of their creation, and ids are random. `created_at` is before `id`, so that sessions
with the same start are adjacent in these indexes, and opening them writes few pages.
"""


class SessionRow(model.Session, table=True):
    """The sessions, which are also the schedule: no other table has deadlines of sessions."""

    __tablename__ = "session"

    id: str = Field(primary_key=True)

    __table_args__ = (
        # The scheduler's query, with its order.
        Index("session_due", "due_at", "created_at", "id", **_where("due_at IS NOT NULL")),
        # The reminders that are to come: the third kind of deadline.
        Index("session_remind", "remind_at", "created_at", "id", **_where("remind_at IS NOT NULL")),
        # A PIN belongs to one open session. 0 means none.
        Index("session_pin", "pin", unique=True, **_where("pin <> 0")),
        # An agent's sessions: to count them for the limit, and to list them in the default order.
        Index("session_owner", "agent_id", "status", "type", "created_at", "id"),
        # All columns by which lists select and sort, so that a list reads only the rows of its page.
        Index("session_owner_start", "agent_id", *LISTED),
        Index("session_start", *LISTED),
        Index(
            "session_record", "external_mapping", "status", "created_at", "id",
            **_where("external_mapping IS NOT NULL"),
        ),
        # All open sessions, whose deadlines are recomputed after new time-outs.
        Index("session_open_id", "id", **_where("status <> 'closed'")),
        Index("session_closed", "closed_at", **_where("closed_at IS NOT NULL")),
    )  # fmt: skip


class ParticipantRow(model.Participant, table=True):
    __tablename__ = "participant"
    # The people who are in a session or wait to be admitted. A session may have had ten thousand in all.
    __table_args__ = (Index("participant_present", "session_id", "joined_at", "id", **_where("left_at IS NULL")),)

    id: str = Field(primary_key=True)
    session_id: str = Field(foreign_key="session.id", ondelete="CASCADE", index=True)


class PresenceRow(model.Presence, table=True):
    """People in the daemons' own rooms; `gone_at` is the second kind of deadline."""

    __tablename__ = "presence"
    __table_args__ = (
        Index("presence_gone", "gone_at", "participant_id", **_where("gone_at IS NOT NULL")),
        Index("presence_daemon", "daemon", "participant_id"),
    )

    participant_id: str = Field(primary_key=True)
    session_id: str = Field(foreign_key="session.id", ondelete="CASCADE", index=True)
    resume_sha256: str = Field(unique=True)


class LeaseRow(model.Lease, table=True):
    __tablename__ = "lease"

    daemon: str = Field(primary_key=True)


class EventRow(model.Event, table=True):
    """The events in the order of their commits; each is written in the transaction of its change."""

    __tablename__ = "event"
    __table_args__ = (
        # A session's events in order. Without `seq` PostgreSQL may read the whole table in the order of its key.
        Index("event_session", "session_id", "seq"),
        Index("event_ts", "ts", "seq"),
        {"sqlite_autoincrement": True},  # otherwise SQLite reuses the number of a removed event
    )

    seq: int = Field(default=None, primary_key=True, sa_type=Serial)
    session_id: str = Field(foreign_key="session.id", ondelete="CASCADE")


class AgentSessionRow(model.AgentSession, table=True):
    __tablename__ = "agent_session"
    __table_args__ = (
        Index("agent_session_expires", "expires_at"),
        Index("agent_session_agent", "agent_id", "sid"),
        {"sqlite_autoincrement": True},
    )

    sid: int = Field(default=None, primary_key=True)
    secret_sha256: str = Field(unique=True)


class AgentRow(model.KnownAgent, table=True):
    __tablename__ = "agent"
    __table_args__ = (
        Index("agent_subject", "issuer", "subject", unique=True, **_where("issuer <> ''")),
        # The changes that a daemon has not read yet.
        Index("agent_changed", "changed"),
    )

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    changed: int = Field(sa_type=BigInteger)


class SignInCodeRow(model.SignInCode, table=True):
    __tablename__ = "signin_code"
    __table_args__ = (
        Index("signin_code_expires", "expires_at"),
        Index("signin_code_agent", "agent_id", "expires_at"),
    )

    code_sha256: str = Field(primary_key=True)


class SeriesRow(model.Series, table=True):
    """The series; `next_at` is the fourth kind of deadline."""

    __tablename__ = "series"
    __table_args__ = (
        Index("series_next", "next_at", "id", **_where("next_at IS NOT NULL")),
        Index("series_agent", "agent_id", "id"),
        Index(
            "series_key", "agent_id", "idempotency_key", unique=True, **_where("idempotency_key IS NOT NULL"),
        ),
        Index("series_entry", "entry", **_where("entry IS NOT NULL AND ended_at IS NULL")),
    )  # fmt: skip

    id: str = Field(primary_key=True)


class OccurrenceRow(model.Occurrence, table=True):
    __tablename__ = "occurrence"

    series_id: str = Field(primary_key=True, foreign_key="series.id", ondelete="CASCADE")
    local_start: str = Field(primary_key=True)
    session_id: str = Field(foreign_key="session.id", ondelete="CASCADE", index=True)


class CalendarFeedRow(model.CalendarFeed, table=True):
    __tablename__ = "calendar_feed"

    agent_id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    secret_sha256: str = Field(unique=True)


class ChallengeUseRow(model.ChallengeUse, table=True):
    __tablename__ = "challenge_use"
    __table_args__ = (
        Index("challenge_use_guessed", "guessed_at", **_where("guessed_at IS NOT NULL")),
        Index("challenge_use_kept", "kept_until"),
    )

    uuid: str = Field(primary_key=True)


class IdempotencyRecordRow(model.IdempotencyRecord, table=True):
    __tablename__ = "retry"  # the name cannot change, because migrations only add
    __table_args__ = (Index("retry_created", "created_at"),)

    agent_id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    key: str = Field(primary_key=True)
    session_id: str = Field(foreign_key="session.id", ondelete="CASCADE", index=True)


class BatchRecordRow(model.BatchRecord, table=True):
    __tablename__ = "batch_retry"
    __table_args__ = (Index("batch_retry_created", "created_at"),)

    agent_id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    key: str = Field(primary_key=True)


class BatchRow(model.Batch, table=True):
    """The batches that are being done. There are only a few at a time."""

    __tablename__ = "batch"
    __table_args__ = (Index("batch_agent", "agent_id", "key"),)

    id: str = Field(primary_key=True)


class BatchPartRow(model.BatchPart, table=True):
    __tablename__ = "batch_part"
    __table_args__ = (Index("batch_part_created", "created_at"),)

    batch_id: str = Field(primary_key=True)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})


class EndpointRow(model.Endpoint, table=True):
    """The position of an endpoint. The row stays when its webhook is removed from the configuration."""

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
        Index("delivery_outcome", "endpoint", "ok", "id"),
        Index("delivery_at", "at"),
        {"sqlite_autoincrement": True},
    )

    id: int = Field(default=None, primary_key=True, sa_type=Serial)
    first_seq: int | None = Field(default=None, sa_type=BigInteger)
    last_seq: int | None = Field(default=None, sa_type=BigInteger)


class MailRow(model.Mail, table=True):
    __tablename__ = "mail"
    __table_args__ = (Index("mail_failed", "seq", **_where("state IN ('refused', 'unknown')")),)

    session_id: str = Field(primary_key=True, foreign_key="session.id", ondelete="CASCADE")
    position: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    seq: int = Field(sa_type=BigInteger)
    sent_seq: int | None = Field(default=None, sa_type=BigInteger)


class MailCountRow(model.MailCount, table=True):
    __tablename__ = "mail_count"

    agent_id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})


class MetaRow(SQLModel, table=True):
    """Values that belong to the whole database; `storage.meta` has the keys."""

    __tablename__ = "meta"

    key: str = Field(primary_key=True)
    value: str


_tables = SQLModel.metadata.tables
SESSIONS, EVENTS, PARTICIPANTS = _tables["session"], _tables["event"], _tables["participant"]
AGENT_SESSIONS, IDEMPOTENCY, META = _tables["agent_session"], _tables["retry"], _tables["meta"]
SIGNIN_CODES, AGENTS, CHALLENGE_USES = _tables["signin_code"], _tables["agent"], _tables["challenge_use"]
BATCH_RECORDS, BATCHES, BATCH_PARTS = _tables["batch_retry"], _tables["batch"], _tables["batch_part"]
ENDPOINTS, REPLAYS, DELIVERIES = _tables["endpoint"], _tables["replay"], _tables["delivery"]
SERIES, OCCURRENCES = _tables["series"], _tables["occurrence"]
PRESENCE, LEASES, MAILS = _tables["presence"], _tables["lease"], _tables["mail"]
MAIL_COUNTS = _tables["mail_count"]
CALENDAR_FEEDS = _tables["calendar_feed"]
