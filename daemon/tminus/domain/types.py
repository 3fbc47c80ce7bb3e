"""The words of the field: kinds of sessions, statuses, triggers, events, roles; who calls; what is asked for.

Nothing to load: the command needs these words, and not the database behind them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


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
    KNOCK = "knock"
    ADMIT = "admit"
    DENY = "deny"
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
    """Names of what can happen; `tminus.domain.events` says what each carries."""

    CREATED = "session.created"
    SCHEDULED = "session.scheduled"
    RESCHEDULED = "session.rescheduled"
    READY = "session.ready"
    ACTIVE = "session.active"
    CLOSED = "session.closed"
    KNOCKED = "participant.knocked"
    ADMITTED = "participant.admitted"
    DENIED = "participant.denied"
    JOINED = "participant.joined"
    LEFT = "participant.left"


EVENT_PATTERNS = {
    "*": frozenset(EventType),
    **{
        f"{kind}.*": frozenset(one for one in EventType if one.startswith(f"{kind}."))
        for kind in dict.fromkeys(one.partition(".")[0] for one in EventType)
    },
    **{one.value: frozenset({one}) for one in EventType},
}
"""What stands for which types of events where some are chosen: `*`, `session.*`, `session.ready`."""

EventPattern = StrEnum("EventPattern", {pattern: pattern for pattern in EVENT_PATTERNS})  # type: ignore[misc]


def event_types(patterns: Iterable[str]) -> frozenset[EventType]:
    """The types that any of the patterns stands for."""
    return frozenset[EventType]().union(*(EVENT_PATTERNS[pattern] for pattern in patterns))


class PauseReason(StrEnum):
    """Why nothing is sent to an endpoint until somebody resumes it."""

    GONE = "gone"
    GAVE_UP = "gave_up"
    OPERATOR = "operator"


class DeliveryKind(StrEnum):
    EVENTS = "events"
    REPLAY = "replay"
    PING = "ping"


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
        return actor_of(self.agent_id, self.roles)

    def has(self, *roles: Role) -> bool:
        """Whether the caller has one of these roles; `group_admin` has them all."""
        return Role.GROUP_ADMIN in self.roles or not self.roles.isdisjoint(roles)


def actor_of(agent_id: int, roles: frozenset[Role]) -> str:
    """Return how an event names an agent with these roles."""
    if agent_id == LOCAL_AGENT_ID:
        return "local"
    kind = "room" if Role.ROOM in roles and not roles & _PEOPLE else "agent"
    return f"{kind}:{agent_id}"


_PEOPLE = frozenset({Role.AGENT, Role.SUPERVISOR, Role.GROUP_ADMIN})

LOCAL_AGENT_ID = 0
"""Owner of what is made over the local socket: "local operator"."""

CLOCK_ACTOR = "clock"


@dataclass(frozen=True, slots=True)
class CreateSession:
    """What a caller wants created: shapes are checked by then, times and rights are not."""

    type: SessionType
    label: str
    user_description: str | None = None
    preferences: Mapping[str, bool] = field(default_factory=dict)
    external_mapping: str | None = None
    parent_object: str | None = None
    """As JSON, an object; so is the next."""

    meta_data: str | None = None
    start_time: datetime | None = None
