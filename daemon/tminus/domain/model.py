"""The records that are stored in the database: a class for each table. `storage.tables` turns them into tables."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel
from sqlalchemy import JSON, BigInteger, Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel, String

from tminus.domain.timestamps import EPOCH, MILLISECOND
from tminus.domain.types import (  # fmt: skip
    BatchKind,
    CloseReason,
    DeliveryKind,
    EventType,
    MailState,
    ParticipantRole,
    PauseReason,
    SessionType,
    Status,
    Trigger,
)


class Instant(TypeDecorator[datetime]):
    """A column of times, stored as 64-bit integers: milliseconds since 1970.

    An integer means the same in SQLite and PostgreSQL, can be compared and subtracted in SQL, and has no time zone that
    could be lost.
    """

    impl = BigInteger
    cache_ok = True

    @staticmethod
    def number(value: datetime) -> int:
        """Return the integer that is stored for a time."""
        return (value - EPOCH) // MILLISECOND

    @staticmethod
    def instant(number: int) -> datetime:
        """Return the time that a stored integer means."""
        return EPOCH + number * MILLISECOND

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else self.number(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:  # noqa: ARG002
        """Return the function that converts a stored value.

        `process_result_value` would do the same with one more function call for each value.
        """
        instant = self.instant
        return lambda value: None if value is None else instant(value)


class JsonText(TypeDecorator[str]):
    """A column of JSON that is stored and read as text.

    Answers contain this text as it was stored. Parsing it for each event or row would take more time than the rest of
    an answer, and turn a few kilobytes of brackets into megabytes of objects.
    """

    impl = JSON
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> None:
        """Return None: the text is stored unchanged."""

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        """Return None: the text is read unchanged."""


class Record(SQLModel):
    """Base class of the stored records.

    Its instances are constructed by pydantic alone. SQLModel's own constructor also prepares them for an ORM session,
    which tminus does not use, and takes a third of its time for that.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return object.__new__(cls)

    # The same function, since pydantic would call any other one again after it has validated a row.
    __init__ = BaseModel.__init__

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return the record of a row, validated by pydantic alone for the same reason."""
        return super(SQLModel, cls).model_validate(obj, **options)


class Session(Record):
    """A session. It has a status, and at most one deadline at a time."""

    id: str
    type: SessionType = Field(sa_type=String)
    status: Status = Field(sa_type=String)
    label: str
    user_description: str
    scheduled: bool
    """Whether it was created with a start time. This never changes."""

    agent_id: int
    organization_id: int
    created_by: str = Field(sa_type=JsonText)
    """`createdByAgentSession` as JSON, as it was when the session was created, without the secret token."""

    start_time: datetime | None = Field(default=None, sa_type=Instant)
    expires_at: datetime = Field(sa_type=Instant)
    due_at: datetime | None = Field(default=None, sa_type=Instant)
    due_trigger: Trigger | None = Field(default=None, sa_type=String)
    late_since: datetime | None = Field(default=None, sa_type=Instant)
    """Since when it is overdue, if that is not `due_at`: it was postponed because no PIN was free, it became overdue
    when the time-outs were changed, or it was created less than the lead time before its start.
    """
    created_at: datetime = Field(sa_type=Instant)
    updated_at: datetime = Field(sa_type=Instant)
    opened_at: datetime | None = Field(default=None, sa_type=Instant)
    activated_at: datetime | None = Field(default=None, sa_type=Instant)
    empty_since: datetime | None = Field(default=None, sa_type=Instant)
    closed_at: datetime | None = Field(default=None, sa_type=Instant)
    close_reason: CloseReason | None = Field(default=None, sa_type=String)

    pin: int = 0
    """100000 to 999999 while a session of a type with PINs is open; otherwise 0."""
    host_auth_token: str
    host_key: str
    external_session_object_id: str
    settings: str = Field(sa_type=JsonText)
    """The settings in force, as JSON: an object of booleans."""

    user_url: str
    host_url: str
    """Without the fragment `#host=`, which contains a secret."""

    external_mapping: str | None = None
    parent_object: str | None = Field(default=None, sa_type=JsonText)
    """JSON that the caller has sent."""

    meta_data: str | None = Field(default=None, sa_type=JsonText)
    """JSON that the caller has sent."""

    invitees: str | None = Field(default=None, sa_type=JsonText)
    """The people who are invited, as `domain.invitees` writes them; None: nobody."""
    reminders: str | None = None
    """How long before the start people are reminded, as JSON: a list of durations, the longest first; None: never."""
    remind_at: datetime | None = Field(default=None, sa_type=Instant)
    """When the next reminder is due; None: no more reminder is to come."""

    series_id: str | None = None
    """The series to which it belongs; None: it belongs to none."""
    series_start: str | None = None
    """Its local start in the series. It stays the same if the session alone is moved."""

    participants: int = 0
    version: int = 1

    def active_seconds(self, now: datetime) -> int:
        """Return the whole seconds that it has been `active`, until `now` or until it was closed."""
        if self.activated_at is None:
            return 0
        return max(0, int(((self.closed_at or now) - self.activated_at).total_seconds()))


class Participant(Record):
    """A person who joined or knocked. The row remains after they have left."""

    id: str
    session_id: str
    role: ParticipantRole = Field(sa_type=String)
    name: str
    joined_at: datetime = Field(sa_type=Instant)
    """When they joined; until they are admitted, when they knocked."""
    waiting_since: datetime | None = Field(default=None, sa_type=Instant)
    """When they knocked. None if they did not knock, or were admitted."""
    left_at: datetime | None = Field(default=None, sa_type=Instant)


class Presence(Record):
    """The connection of a person who joined or knocked through the daemon's own room.

    The row is removed when they leave. There is none for people whom another system reports over the API.
    """

    participant_id: str
    session_id: str
    resume_sha256: str
    """SHA-256 of the resume key, with which they reconnect after their connection was lost."""
    daemon: str
    """The name of the daemon to which they are connected, or were last connected."""
    connection: str
    """The random id of the connection that represents them; the latest one, if there are two."""
    gone_at: datetime | None = Field(default=None, sa_type=Instant)
    """When they leave, unless they reconnect before; None while they are connected."""


class Lease(Record):
    """The lease of a daemon with people in its rooms.

    The daemon renews it while it runs. When it has expired, another daemon sets `Presence.gone_at` of these people.
    """

    daemon: str
    until: datetime = Field(sa_type=Instant)
    """When it expires."""


class Event(Record):
    """An event, with the fields that change during a session. Fields that never change are read from the session."""

    seq: int = 0
    """The number of the event: it increases and is never reused. 0 until the database has assigned it."""
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
    """The deadline of a transition that the scheduler executed, or of a reminder; `ts` minus this is its lateness."""
    reason: CloseReason | None = Field(default=None, sa_type=String)
    participant_id: str | None = None
    participants: int = 0
    request_id: str | None = None


class AgentSession(Record):
    """An agent session, which a sign-in creates for one hour. Only the SHA-256 of its secret is stored."""

    sid: int = 0
    secret_sha256: str
    agent_id: int
    token_sha256: str
    """The credential of the sign-in: the SHA-256 of a configured token, or an OpenID Connect issuer. The agent session
    ends when the configuration no longer has it.
    """
    started_at: datetime = Field(sa_type=Instant)
    expires_at: datetime = Field(sa_type=Instant)
    client_app: str
    user_agent: str
    remote_ip: str


class KnownAgent(Record):
    """The stored state of an agent. Of a configured agent only the number and the last three fields are stored."""

    id: int
    issuer: str = ""
    """The OpenID Connect issuer by which the agent came; "" for a configured agent."""
    subject: str = ""
    """The issuer's stable id of the agent."""
    name: str = ""
    email: str = ""
    roles: str = "[]"
    """The roles as of the last sign-in: a JSON list."""
    signed_in_at: datetime | None = Field(default=None, sa_type=Instant)
    shut_out_at: datetime | None = Field(default=None, sa_type=Instant)
    """Since when an operator has shut the agent out; None: the agent may sign in."""
    changed: int = 0
    """The number of the last change that all daemons have to read; 0: none."""


class Series(Record):
    """A series of sessions. Its occurrences are sessions, which are made ahead of time."""

    id: str
    agent_id: int
    caller: str
    """Name, external id and roles of the agent at the creation, as JSON. Later sessions are created with them if the
    agent is not in the configuration.
    """
    definition: str
    """The series in the form of the API, as JSON: when sessions start, and what each of them contains."""
    template: str
    """What each session contains, as JSON: the fields of `CreateSession`."""
    made_through: str
    """The local time through which occurrences have been made."""
    next_at: datetime | None = Field(default=None, sa_type=Instant)
    """When the next occurrences are to be made; None: there are no more."""
    ended_at: datetime | None = Field(default=None, sa_type=Instant)
    created_at: datetime = Field(sa_type=Instant)
    updated_at: datetime = Field(sa_type=Instant)
    version: int = 1
    follows: str | None = None
    """The id of the series that this one continues from a certain time on."""
    idempotency_key: str | None = None
    body_sha256: str | None = None
    entry: str | None = None
    """The name of its entry `[[series]]` in the configuration; None: a caller created it."""


class Occurrence(Record):
    """A session of a series."""

    series_id: str
    local_start: str
    """Its local start in the series, even if the session was moved or closed."""
    session_id: str
    start_time: datetime = Field(sa_type=Instant)
    """The start that the series gave to the session. If the session has another start, it was moved alone."""


class CalendarFeed(Record):
    """The address of an agent's calendar. Only the SHA-256 of its secret is stored."""

    agent_id: int
    secret_sha256: str
    created_at: datetime = Field(sa_type=Instant)


class ChallengeUse(Record):
    """A challenge that was answered, rightly or wrongly. It cannot be answered again."""

    uuid: str
    guessed_at: datetime | None = Field(default=None, sa_type=Instant)
    """When a right answer came with a wrong PIN; None: the answer was wrong, or the PIN right."""
    kept_until: datetime = Field(sa_type=Instant)
    """When the row may be removed."""


class SignInCode(Record):
    """A code with which a web page gets an agent session, once. Only its SHA-256 is stored."""

    code_sha256: str
    provider: str
    instance_url: str
    """As the page sent it; "" if it sent none."""
    receiver: str
    """The page's URL, as `signin.receivers` has it."""
    agent_id: int
    token_sha256: str
    """The credential with which the agent signed in, as in `AgentSession`."""
    expires_at: datetime = Field(sa_type=Instant)


class IdempotencyRecord(Record):
    """The result of a request with an `Idempotency-Key`, so that a retry gets the same answer and is not executed."""

    agent_id: int
    key: str
    body_sha256: str
    session_id: str
    participant_id: str | None = None
    created_at: datetime = Field(sa_type=Instant)


class BatchRecord(Record):
    """The result of a batch with an `Idempotency-Key`, so that a retry gets the same answer."""

    agent_id: int
    key: str
    body_sha256: str
    session_ids: str = Field(sa_type=JsonText)
    """The ids of its sessions, in their order: a JSON list."""
    created_at: datetime = Field(sa_type=Instant)


class Batch(Record):
    """A batch that is decided but not finished. The row is removed when the batch is done for all of its sessions."""

    id: str
    kind: BatchKind = Field(sa_type=String)
    agent_id: int
    """The agent whose request it is."""
    key: str | None = None
    """The `Idempotency-Key` of the request."""
    caller: str
    """The actor and the request id, for the events: JSON."""
    session_ids: str = Field(sa_type=JsonText)
    """The ids of its sessions, in their order: a JSON list."""
    starts: str | None = Field(default=None, sa_type=JsonText)
    """The starts of these sessions after the batch, as stored integers: a JSON list; None: no overlap is refused."""
    pins: str | None = Field(default=None, sa_type=JsonText)
    """The reserved PINs, as JSON: `new` for new sessions without a start, `due` for sessions that open soon."""
    remaining: int
    """Number of sessions for which it is not done yet: the last ones of `session_ids`."""
    created_at: datetime = Field(sa_type=Instant)


class BatchPart(Record):
    """A part of a batch: what it does with some of the sessions, as JSON. The row is removed when the part is done."""

    batch_id: str
    number: int
    content: str
    created_at: datetime = Field(sa_type=Instant)


class Endpoint(Record):
    """The position of a webhook endpoint, and the result of its last attempts. The rest is configuration."""

    name: str
    cursor: int
    """The number of the last event that was delivered or that the endpoint's filter excluded."""
    batch_until: int | None = None
    """While deliveries fail: the last event of the batch, so that each retry contains the same events."""
    failures: int = 0
    """Number of consecutive failed attempts."""
    failing_since: datetime | None = Field(default=None, sa_type=Instant)
    retry_at: datetime | None = Field(default=None, sa_type=Instant)
    last_error: str | None = None
    delivered_at: datetime | None = Field(default=None, sa_type=Instant)
    paused_at: datetime | None = Field(default=None, sa_type=Instant)
    pause_reason: PauseReason | None = Field(default=None, sa_type=String)


class Replay(Record):
    """A replay that an operator has requested: the events after `cursor`, up to `until`, are delivered again."""

    id: int = 0
    endpoint: str
    cursor: int
    until: int
    session_id: str | None = None
    failures: int = 0
    failing_since: datetime | None = Field(default=None, sa_type=Instant)
    retry_at: datetime | None = Field(default=None, sa_type=Instant)


class Delivery(Record):
    """A delivery attempt: a row of the delivery log."""

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
    """The body of the receiver's answer, cut to 2 KiB."""


class MailCount(Record):
    """How many mails an agent has caused in the current period of `limits.mails_per_agent`."""

    agent_id: int
    since: datetime = Field(sa_type=Instant)
    mails: int


class Mail(Record):
    """The last mail to an invitee of a session."""

    session_id: str
    position: int
    """The position of the invitee in the session's list."""
    seq: int
    """The number of the event that the mail is about."""
    state: MailState = Field(sa_type=String)
    unanswered: int = 0
    """How often its text was sent without an answer; 0 if the server has answered."""
    sent_seq: int | None = None
    """The number of the last event about which a mail was accepted; None: no mail was ever accepted."""
    at: datetime = Field(sa_type=Instant)
