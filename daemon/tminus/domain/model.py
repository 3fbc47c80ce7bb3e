"""What is kept: a session, its participants, its events, and what callers have begun.

Each is declared once, here; `storage.tables` turns it into a table.
"""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel
from sqlalchemy import JSON, BigInteger, Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel, String

from tminus.domain.timestamps import EPOCH, MILLISECOND
from tminus.domain.types import (  # fmt: skip
    CloseReason,
    DeliveryKind,
    EventType,
    ParticipantRole,
    PauseReason,
    SessionType,
    Status,
    Trigger,
)


class Instant(TypeDecorator[datetime]):
    """A column of instants, kept as a 64-bit number of milliseconds since 1970.

    One number means the same in SQLite and PostgreSQL, compares and subtracts in SQL, and cannot lose its zone.
    """

    impl = BigInteger
    cache_ok = True

    @staticmethod
    def number(value: datetime) -> int:
        """Return an instant as it is stored."""
        return (value - EPOCH) // MILLISECOND

    @staticmethod
    def instant(number: int) -> datetime:
        """Return the instant that is stored as this number."""
        return EPOCH + number * MILLISECOND

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else self.number(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else self.instant(value)


class JsonText(TypeDecorator[str]):
    """A column of JSON, stored and read as the text that it is.

    What somebody has sent goes out again as it is stored. To parse it for each event or row of a list took more time
    than all else of a page, and of a few kilobytes of brackets it makes megabytes of objects.
    """

    impl = JSON
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> None:
        """Nothing is done to the text on its way in."""

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        """Nor on its way out."""


class Stored(SQLModel):
    """What is kept. It is made as pydantic makes it: what SQLModel does besides is for an ORM that follows its objects,
    and took a third of the time.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return object.__new__(cls)

    def __init__(self, **values: Any) -> None:
        BaseModel.__init__(self, **values)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return the model of a row; checked by pydantic alone, for the same reason."""
        return super(SQLModel, cls).model_validate(obj, **options)


class Session(Stored):
    """A session: a status, and at most one deadline."""

    id: str
    type: SessionType = Field(sa_type=String)
    status: Status = Field(sa_type=String)
    label: str
    user_description: str
    scheduled: bool
    """How it was made, for life; `status` is where it stands."""

    agent_id: int
    organization_id: int
    created_by: str = Field(sa_type=JsonText)
    """`createdByAgentSession` as JSON, frozen at creation, without the secret token."""

    start_time: datetime | None = Field(default=None, sa_type=Instant)
    expires_at: datetime = Field(sa_type=Instant)
    due_at: datetime | None = Field(default=None, sa_type=Instant)
    due_trigger: Trigger | None = Field(default=None, sa_type=String)
    late_since: datetime | None = Field(default=None, sa_type=Instant)
    """Since when it is overdue, where that is not since `due_at`: it was put off, as no PIN was free, or it became
    overdue only when other time-outs came into force.
    """
    created_at: datetime = Field(sa_type=Instant)
    updated_at: datetime = Field(sa_type=Instant)
    opened_at: datetime | None = Field(default=None, sa_type=Instant)
    activated_at: datetime | None = Field(default=None, sa_type=Instant)
    empty_since: datetime | None = Field(default=None, sa_type=Instant)
    closed_at: datetime | None = Field(default=None, sa_type=Instant)
    close_reason: CloseReason | None = Field(default=None, sa_type=String)

    pin: int = 0
    """100000-999999 while a PIN type is open, else 0."""
    host_auth_token: str
    host_key: str
    external_session_object_id: str
    settings: str = Field(sa_type=JsonText)
    """What holds in it, as JSON: an object of booleans."""

    user_url: str
    host_url: str
    """Without its `#host=` fragment."""

    external_mapping: str | None = None
    parent_object: str | None = Field(default=None, sa_type=JsonText)
    """What a caller has sent, as JSON; so is the next."""

    meta_data: str | None = Field(default=None, sa_type=JsonText)
    participants: int = 0
    version: int = 1

    def active_seconds(self, now: datetime) -> int:
        """Whole seconds spent in `active`, until `now` or until it was closed."""
        if self.activated_at is None:
            return 0
        return max(0, int(((self.closed_at or now) - self.activated_at).total_seconds()))


class Participant(Stored):
    """Somebody who joined, or knocked; the row stays after they have left."""

    id: str
    session_id: str
    role: ParticipantRole = Field(sa_type=String)
    name: str
    joined_at: datetime = Field(sa_type=Instant)
    """When they knocked, if they have not been let in."""
    waiting_since: datetime | None = Field(default=None, sa_type=Instant)
    """When they knocked, until they are let in; it stays if they never are."""
    left_at: datetime | None = Field(default=None, sa_type=Instant)


class Event(Stored):
    """One recorded change: what differs from one moment to the next. What never changes is read from the session."""

    seq: int = 0
    """Rises, is never reused; 0 until the database has drawn it."""
    session_id: str
    type: EventType = Field(sa_type=String)
    ts: datetime = Field(sa_type=Instant)
    actor: str
    previous_status: Status | None = Field(default=None, sa_type=String)
    status: Status = Field(sa_type=String)
    start_time: datetime | None = Field(default=None, sa_type=Instant)
    previous_start_time: datetime | None = Field(default=None, sa_type=Instant)
    expires_at: datetime = Field(sa_type=Instant)
    due_at: datetime | None = Field(default=None, sa_type=Instant)
    """For a move of the clock: when it should have been, hence how late it was."""
    reason: CloseReason | None = Field(default=None, sa_type=String)
    participant_id: str | None = None
    participants: int = 0
    request_id: str | None = None


class AgentSession(Stored):
    """An hour of an agent's work, begun by `authWithToken`. Its secret is never stored, only the SHA-256 of it."""

    sid: int = 0
    secret_sha256: str
    agent_id: int
    token_sha256: str
    """The configured token it was begun with: taking that out of the config ends it."""
    started_at: datetime = Field(sa_type=Instant)
    expires_at: datetime = Field(sa_type=Instant)
    client_app: str
    user_agent: str
    remote_ip: str


class IdempotencyRecord(Stored):
    """What an `Idempotency-Key` made, so that a retried request is answered, not repeated."""

    agent_id: int
    key: str
    body_sha256: str
    session_id: str
    participant_id: str | None = None
    created_at: datetime = Field(sa_type=Instant)


class Endpoint(Stored):
    """How far a webhook's receiver has been told, and what became of the last tries. The rest is configuration."""

    name: str
    cursor: int
    """The last event that it was told, or that its filter passed over."""
    batch_until: int | None = None
    """While it fails: the last event of the batch that is tried again, so that a retry has the same events."""
    failures: int = 0
    """Tries in a row that have failed."""
    failing_since: datetime | None = Field(default=None, sa_type=Instant)
    retry_at: datetime | None = Field(default=None, sa_type=Instant)
    last_error: str | None = None
    delivered_at: datetime | None = Field(default=None, sa_type=Instant)
    paused_at: datetime | None = Field(default=None, sa_type=Instant)
    pause_reason: PauseReason | None = Field(default=None, sa_type=String)


class Replay(Stored):
    """Events that an operator wants told again: those after `cursor`, up to `until`."""

    id: int = 0
    endpoint: str
    cursor: int
    until: int
    session_id: str | None = None
    failures: int = 0
    failing_since: datetime | None = Field(default=None, sa_type=Instant)
    retry_at: datetime | None = Field(default=None, sa_type=Instant)


class Delivery(Stored):
    """One try to tell an endpoint something: a row of the delivery log."""

    id: int = 0
    endpoint: str
    kind: DeliveryKind = Field(sa_type=String)
    webhook_id: str
    first_seq: int | None = None
    last_seq: int | None = None
    events: int = 0
    at: datetime = Field(sa_type=Instant)
    ok: bool
    status: int | None = None
    """The HTTP status; None: there was no answer."""
    ms: int
    error: str | None = None
    answer: str | None = None
    """What the receiver answered, cut to 2 KiB."""
