"""Enumerations and small value types: session types, statuses, triggers, event types, roles, callers, requests.

This module imports only the standard library, so that the command `tminus` can use it without loading SQLAlchemy.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple


class BatchKind(StrEnum):
    """What a batch does with its sessions."""

    CREATE = "create"
    RESCHEDULE = "reschedule"
    CLOSE = "close"


class SessionType(StrEnum):
    SUPPORT = "support"
    COBROWSE = "cobrowse"
    LIVE = "live"
    REPLAY = "replay"

    @property
    def has_pin(self) -> bool:
        """Whether participants join with a PIN while the session is open."""
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


OPEN_STATUSES = tuple(status for status in Status if status is not Status.CLOSED)
"""Statuses of a session that has not ended. A list shows these by default."""


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
    """The types of events. `tminus.domain.events` defines the fields of each."""

    CREATED = "session.created"
    SCHEDULED = "session.scheduled"
    RESCHEDULED = "session.rescheduled"
    READY = "session.ready"
    ACTIVE = "session.active"
    CLOSED = "session.closed"
    REMINDER = "session.reminder"
    REMINDER_SKIPPED = "session.reminder_skipped"
    KNOCKED = "participant.knocked"
    ADMITTED = "participant.admitted"
    DENIED = "participant.denied"
    JOINED = "participant.joined"
    LEFT = "participant.left"


REMINDER_EVENTS = frozenset({EventType.REMINDER, EventType.REMINDER_SKIPPED})
"""The events that no transition records: a reminder changes neither the status nor anything else that callers see."""


EVENT_PATTERNS = {
    "*": frozenset(EventType),
    **{
        f"{kind}.*": frozenset(one for one in EventType if one.startswith(f"{kind}."))
        for kind in dict.fromkeys(one.partition(".")[0] for one in EventType)
    },
    **{one.value: frozenset({one}) for one in EventType},
}
"""Patterns that select event types, such as `*`, `session.*` or `session.ready`, and the types that each selects."""

EventPattern = StrEnum("EventPattern", {pattern: pattern for pattern in EVENT_PATTERNS})  # type: ignore[misc]


def event_types(patterns: Iterable[str]) -> frozenset[EventType]:
    """Return the event types that any of the patterns selects."""
    return frozenset[EventType]().union(*(EVENT_PATTERNS[pattern] for pattern in patterns))


class ReminderOutcome(StrEnum):
    """What the scheduler does with a reminder that is due."""

    SENT = "reminder_sent"
    SKIPPED = "reminder_skipped"


class PauseReason(StrEnum):
    """Why an endpoint receives nothing until an operator resumes it."""

    GONE = "gone"
    GAVE_UP = "gave_up"
    OPERATOR = "operator"


class DeliveryKind(StrEnum):
    EVENTS = "events"
    REPLAY = "replay"
    PING = "ping"
    SAMPLE = "sample"


class MailState(StrEnum):
    """The state of a mail to an invitee."""

    SENDING = "sending"
    """It was about to be sent, and no answer is recorded."""
    SENT = "sent"
    """The mail server accepted it."""
    REFUSED = "refused"
    """The mail server refused it for good."""
    DEFERRED = "deferred"
    """The mail server did not accept it now; it is sent later."""
    UNKNOWN = "unknown"
    """No answer arrived, so it may have been accepted; it is not sent again."""


class Role(StrEnum):
    """The roles of callers. `docs/api.md` lists what each may do."""

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
    """How a session setting is decided: always on, never on, or chosen by the agent who creates the session."""

    ALWAYS = "always"
    NEVER = "never"
    AGENT = "agent"


class OverlapPolicy(StrEnum):
    """What happens when a session is scheduled for a time at which its agent has another appointment."""

    ALLOW = "allow"
    WARN = "warn"
    REFUSE = "refuse"


class Setting(StrEnum):
    """The five settings of every session, in the order in which answers list them."""

    RECORDING = "recording"
    STARTWITHADMIN = "startwithadmin"
    STARTWITHRC = "startwithrc"
    KNOCK = "knock"
    AUDIO = "audio"


class Timeouts(NamedTuple):
    """The time spans from which deadlines are computed. If `max_active` is None, active sessions have no time limit."""

    lead: timedelta = timedelta(minutes=10)
    new: timedelta = timedelta(hours=1)
    empty: timedelta = timedelta(minutes=15)
    max_active: timedelta | None = None


class Caller(NamedTuple):
    """The authenticated caller of a request. `api` creates it from a token or the local socket. It holds no secret."""

    agent_id: int
    name: str
    external_id: str
    roles: frozenset[Role]
    sid: int = 0
    """Number of the agent session; 0 if the caller used an API token or the local socket."""
    provider: str = "tminus"
    started_at: datetime | None = None
    expires_at: datetime | None = None
    client_app: str = ""
    user_agent: str = ""
    remote_ip: str = ""
    request_id: str | None = None
    acts_as: str = ""
    """The actor in events, for a caller who is not an agent: `ROOM_ACTOR`, or what `host_actor` returns."""

    @property
    def actor(self) -> str:
        """The caller's name in events, such as `agent:7`."""
        return self.acts_as or actor_of(self.agent_id, self.roles)

    @property
    def is_host(self) -> bool:
        """Whether the caller is a host in the daemon's own room. Then `name` is the name that they gave there."""
        return self.acts_as.startswith(HOST_PREFIX)

    def has(self, *roles: Role) -> bool:
        """Return whether the caller has one of these roles; `group_admin` includes all others."""
        return Role.GROUP_ADMIN in self.roles or not self.roles.isdisjoint(roles)


@lru_cache(1024)
def actor_of(agent_id: int, roles: frozenset[Role]) -> str:
    """Return the name of an agent with these roles in events, such as `agent:7` or `room:7`."""
    if agent_id == LOCAL_AGENT_ID:
        return "local"
    kind = "room" if Role.ROOM in roles and not roles & _PEOPLE else "agent"
    return f"{kind}:{agent_id}"


_PEOPLE = frozenset({Role.AGENT, Role.SUPERVISOR, Role.GROUP_ADMIN})

MAX_SESSIONS = 10_000
"""Maximum number of sessions of a batch."""

LOCAL_AGENT_ID = 0
"""The id of the "local operator", who owns the sessions that are created over the local socket."""

FIRST_UNCONFIGURED_ID = 2_000_000_000
"""The lowest id of an agent who is not in the configuration. Configured agents have lower ones."""

CLOCK_ACTOR = "clock"

ROOM_ACTOR = "room"
"""The actor of people who join, knock and leave through the daemon's own rooms."""


HOST_PREFIX = "host:"
"""The beginning of what `host_actor` returns."""


def host_actor(participant_id: str) -> str:
    """Return the actor of events that a host in the daemon's own room causes, such as `host:x1Y2z3A4b5C6`."""
    return f"{HOST_PREFIX}{participant_id}"


@dataclass(frozen=True, slots=True)
class CreateSession:
    """A session that a caller requests. Its fields have been validated, but not its times or the caller's rights."""

    type: SessionType
    label: str
    user_description: str | None = None
    preferences: Mapping[str, bool] = field(default_factory=dict)
    external_mapping: str | None = None
    parent_object: str | None = None
    """A JSON object, as text."""

    meta_data: str | None = None
    """A JSON object, as text."""
    start_time: datetime | None = None
    invitees: str | None = field(default=None, kw_only=True)
    """The people who are invited, as `domain.invitees` writes them: a JSON list, as text; None: nobody."""
    reminders: tuple[timedelta, ...] | None = field(default=None, kw_only=True)
    """How long before the start people are reminded; None: the default of the configuration."""
    series_id: str | None = field(default=None, kw_only=True)
    """The series to which the session belongs; None: it belongs to none."""
    series_start: str | None = field(default=None, kw_only=True)
    """Its local start in the series."""
