"""The vocabulary: what a session is, who calls, what happened. No behaviour beyond naming things.

`Session`, `Event` and the others are declared once, here; `storage.tables` turns each into a table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlmodel import JSON, Field, SQLModel, String

from tminus.instants import Instant


class SessionType(StrEnum):
    SUPPORT = "support"
    COBROWSE = "cobrowse"
    LIVE = "live"
    REPLAY = "replay"

    @property
    def has_pin(self) -> bool:
        """Whether people join it by typing a PIN while it is open."""
        return self in PIN_TYPES

    @property
    def id_length(self) -> int:
        return 12 if self is SessionType.LIVE else 6


PIN_TYPES = frozenset({SessionType.SUPPORT, SessionType.COBROWSE})


class Status(StrEnum):
    SCHEDULED = "scheduled"
    NEW = "new"
    ACTIVE = "active"
    CLOSED = "closed"


OPEN_STATUSES = (Status.SCHEDULED, Status.NEW, Status.ACTIVE)
"""Those of a session that is not over: what a list shows unless it is asked for more."""


class Trigger(StrEnum):
    CREATE = "create"
    SCHEDULE = "schedule"
    RESCHEDULE = "reschedule"
    OPEN = "open"
    JOIN = "join"
    LEAVE = "leave"
    EXPIRE = "expire"
    IDLE = "idle"
    TIME_LIMIT = "time_limit"
    CLOSE = "close"


class CloseReason(StrEnum):
    CANCELLED = "cancelled"
    CLOSED = "closed"
    EXPIRED = "expired"
    EMPTY = "empty"
    TIME_LIMIT = "time_limit"


class EventType(StrEnum):
    """Names of what can happen; `tminus.events` says what each carries."""

    CREATED = "session.created"
    SCHEDULED = "session.scheduled"
    RESCHEDULED = "session.rescheduled"
    READY = "session.ready"
    ACTIVE = "session.active"
    CLOSED = "session.closed"
    JOINED = "participant.joined"
    LEFT = "participant.left"


class Role(StrEnum):
    AGENT = "agent"
    SUPERVISOR = "supervisor"
    GROUP_ADMIN = "group_admin"
    MONITOR = "monitor"
    ROOM = "room"
    API = "api"


class ParticipantRole(StrEnum):
    HOST = "host"
    GUEST = "guest"


class Mode(StrEnum):
    """Who decides a session setting: nobody (`always`, `never`) or the agent who makes the session."""

    ALWAYS = "always"
    NEVER = "never"
    AGENT = "agent"


class Setting(StrEnum):
    """The five settings of every session, in the order in which answers list them."""

    RECORDING = "recording"
    STARTWITHADMIN = "startwithadmin"
    STARTWITHRC = "startwithrc"
    KNOCK = "knock"
    AUDIO = "audio"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The spans from which deadlines follow. `max_active` None: an active session has no time limit."""

    lead: timedelta = timedelta(minutes=10)
    new: timedelta = timedelta(hours=1)
    empty: timedelta = timedelta(minutes=15)
    max_active: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Deadline:
    """The next instant at which time alone moves a session, and the move."""

    at: datetime
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Made by `api` from a token or the local socket; nothing in it is secret."""

    agent_id: int
    name: str
    external_id: str
    roles: frozenset[Role]
    sid: int = 0
    """Number of the agent session; 0 where the token itself, or the local socket, was used."""
    provider: str = "tminus"
    started_at: datetime | None = None
    expires_at: datetime | None = None
    client_app: str = ""
    user_agent: str = ""
    remote_ip: str = ""
    request_id: str | None = None

    @property
    def actor(self) -> str:
        """How an event names the caller."""
        if self.agent_id == LOCAL_AGENT_ID:
            return "local"
        kind = "room" if Role.ROOM in self.roles and not self.roles & _PEOPLE else "agent"
        return f"{kind}:{self.agent_id}"

    def has(self, *roles: Role) -> bool:
        """Whether the caller has one of these roles; `group_admin` has them all."""
        return Role.GROUP_ADMIN in self.roles or not self.roles.isdisjoint(roles)


_PEOPLE = frozenset({Role.AGENT, Role.SUPERVISOR, Role.GROUP_ADMIN})

LOCAL_AGENT_ID = 0
"""Owner of what is made over the local socket: "local operator"."""

CLOCK_ACTOR = "clock"


class Session(SQLModel):
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
    created_by: dict[str, Any] = Field(sa_type=JSON)
    """`createdByAgentSession`, frozen at creation, without the secret token."""

    start_time: datetime | None = Field(default=None, sa_type=Instant)
    expires_at: datetime = Field(sa_type=Instant)
    due_at: datetime | None = Field(default=None, sa_type=Instant)
    due_trigger: Trigger | None = Field(default=None, sa_type=String)
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
    settings: dict[str, bool] = Field(sa_type=JSON)
    user_url: str
    host_url: str
    """Without its `#host=` fragment."""

    external_mapping: str | None = None
    parent_object: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    meta_data: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    participants: int = 0
    version: int = 1

    def active_seconds(self, now: datetime) -> int:
        """Whole seconds spent in `active`, until `now` or until it was closed."""
        if self.activated_at is None:
            return 0
        return max(0, int(((self.closed_at or now) - self.activated_at).total_seconds()))


class Participant(SQLModel):
    """Somebody who joined; the row stays after they have left."""

    id: str
    session_id: str
    role: ParticipantRole = Field(sa_type=String)
    name: str
    joined_at: datetime = Field(sa_type=Instant)
    left_at: datetime | None = Field(default=None, sa_type=Instant)


class Event(SQLModel):
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


class AgentSession(SQLModel):
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


class Retry(SQLModel):
    """What an `Idempotency-Key` made, so that a retried request is answered, not repeated."""

    agent_id: int
    key: str
    body_sha256: str
    session_id: str
    participant_id: str | None = None
    created_at: datetime = Field(sa_type=Instant)


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller wants created: shapes are checked by then, times and rights are not."""

    type: SessionType
    label: str
    user_description: str | None = None
    preferences: Mapping[str, bool] = field(default_factory=dict)
    external_mapping: str | None = None
    parent_object: dict[str, Any] | None = None
    meta_data: dict[str, Any] | None = None
    start_time: datetime | None = None
