"""The settings: every key, its type and its default, as frozen models.

`model_dump(mode="json")` writes the values in the notation in which they are read, with secrets masked.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)

from tminus import new_sessions
from tminus.config import addresses, mail, values
from tminus.config.addresses import Address
from tminus.config.mail import Mailbox
from tminus.config.values import Rate
from tminus.domain import durations, timestamps
from tminus.domain.invitees import MAX_INVITEES
from tminus.domain.policy import effective_settings
from tminus.domain.recurrence import MAX_AHEAD
from tminus.domain.reminders import MAX_REMINDERS, in_order, parse_reminder
from tminus.domain.types import (
    EVENT_PATTERNS,
    FIRST_UNCONFIGURED_ID,
    EventType,
    Mode,
    OverlapPolicy,
    Role,
    SessionType,
    Setting,
    Timeouts,
    actor_of,
    event_types,
)


def _token_hash(value: object) -> str:
    # The message does not repeat the value: the usual mistake is to write the token itself.
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("must contain the SHA-256 of a token in hex (64 characters), as `tminus token new` prints it")
    return value


def _credential(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"|[A-Za-z0-9_-][A-Za-z0-9._-]*", value):
        raise ValueError("must be the name of a systemd credential (LoadCredential=): letters, digits, dot, _ and -")
    return value


def _endpoint_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("[a-z0-9][a-z0-9-]{0,62}", value):
        raise ValueError("must be 1 to 63 characters of a-z, 0-9 and -, and must not begin with -")
    return value


def _content_type(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z]+/[a-z0-9.+-]+(; ?charset=[A-Za-z0-9-]+)?", value):
        raise ValueError('must be a media type such as "application/json" or "text/plain"')
    return value


def _scope(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!#-\[\]-~]{1,255}", value):
        raise ValueError('must contain scopes such as "profile": ASCII characters without blanks, quotes and \\')
    return value


def _event_pattern(value: object) -> str:
    if not isinstance(value, str) or value not in EVENT_PATTERNS:
        raise ValueError(f"must contain only {', '.join(EVENT_PATTERNS)}, not {durations.quoted(value)}")
    return value


def _one_or_more(value: object) -> object:
    """Return a list; a single text may stand for a list of one, and `""` for the empty list."""
    return (value,) if isinstance(value, str) and value else () if value == "" else value


def _in_order(roles: Iterable[Role]) -> list[str]:
    return [role.value for role in Role if role in roles]


# The maximum of an integer column in PostgreSQL.
Number = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
# Higher ones are for agents who are not in the configuration.
AgentNumber = Annotated[int, Field(strict=True, ge=1, lt=FIRST_UNCONFIGURED_ID)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
# Texts that get into rows, headers, mails and onto terminals have no control characters: `Text` and `Short` are those
# of the API.
Name = new_sessions.Text
ExternalId = new_sessions.Short
Email = new_sessions.Printable[Annotated[str, Field(max_length=254)]]  # the maximum in SMTP
Span = Annotated[timedelta, PlainSerializer(durations.duration_text)]
# None is written "0" in `Never0` and `Retention`, and "" in `NeverEmpty`.
_Or0 = PlainSerializer(lambda span: durations.duration_text(span) if span else "0")
Never0 = Annotated[timedelta | None, PlainValidator(values.duration_or_never("0")), _Or0]
# At least the 24 h for which idempotency keys are promised: removing a session also removes its key.
Retention = Annotated[timedelta | None, PlainValidator(values.duration_or_never("0", at_least="24h")), _Or0]
NeverEmpty = Annotated[
    timedelta | None,
    PlainValidator(values.duration_or_never("")),
    PlainSerializer(lambda span: durations.duration_text(span) if span else ""),
]
Limit = Annotated[
    Rate | None, PlainValidator(values.parse_rate), PlainSerializer(lambda rate: str(rate) if rate else "")
]
Listen = Annotated[Address, PlainValidator(addresses.parse_address), PlainSerializer(str)]
BaseUrl = Annotated[str | None, PlainValidator(addresses.parse_base_url), PlainSerializer(lambda url: url or "")]
Issuer = Annotated[str, PlainValidator(addresses.parse_issuer)]
IssuerHost = Annotated[str, PlainValidator(addresses.parse_issuer_host)]
Claim = new_sessions.Text
Groups = tuple[new_sessions.Text, ...]
Scope = Annotated[str, PlainValidator(_scope)]
Receiver = Annotated[str, PlainValidator(addresses.parse_receiver)]
Origin = Annotated[str, PlainValidator(addresses.parse_origin)]
Network = Annotated[
    IPv4Network | IPv6Network, PlainValidator(addresses.parse_network), PlainSerializer(addresses.network_text)
]


def fingerprint(digest: str) -> str:
    """Return the first 12 digits of a token's SHA-256, by which files and the log identify the token."""
    return digest[:12]


OneOrMore = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_one_or_more)]
EventPattern = Annotated[str, PlainValidator(_event_pattern)]
TokenHash = Annotated[str, PlainValidator(_token_hash), PlainSerializer(lambda digest: fingerprint(digest) + "…")]


class Table(BaseModel):
    """A table of the configuration file. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Urls:
    """The public URLs of the API and of the pages for users and hosts, without a slash at the end."""

    public: str
    user: str
    host: str

    @cached_property
    def user_page(self) -> str:
        """The page for users, to which `?` and a session's id are appended."""
        return addresses.page(self.user)

    @cached_property
    def pin_page(self) -> str:
        """The page for users, to which a session's PIN is appended."""
        page = self.user_page
        return page if page.endswith("/") else f"{page}?"

    @cached_property
    def host_page(self) -> str:
        """The page for hosts, to which `?` and a session's id are appended."""
        return addresses.page(self.host)


class Server(Table):
    listen: Listen = Address("127.0.0.1", 8710)
    socket: str = "tminus.sock"
    """As written in the file; `socket_path` resolves it."""
    public_url: BaseUrl = None
    """This and the next two are None if they are not set; `urls` derives them."""
    user_url: BaseUrl = None
    host_url: BaseUrl = None
    cors_origins: tuple[Origin, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    max_body: Annotated[
        int, PlainValidator(values.size(at_least="1KiB", at_most="64MiB")), PlainSerializer(values.size_text)
    ] = 64 * 1024
    """In bytes."""
    max_batch_body: Annotated[
        int, PlainValidator(values.size(at_least="1KiB", at_most="64MiB")), PlainSerializer(values.size_text)
    ] = 16 * 1024 * 1024
    """The same for a batch."""

    def socket_path(self, state_directory: Path) -> Path | None:
        """Return the path of the local socket, or None if there is none."""
        return state_directory / self.socket if self.socket else None

    def urls(self) -> Urls:
        """Return the public URLs; those that are not set are derived from `listen`."""
        return _urls(self.listen, self.public_url, self.user_url, self.host_url)


@lru_cache(maxsize=8)
def _urls(listen: Address, public_url: str | None, user_url: str | None, host_url: str | None) -> Urls:
    """Return the URLs. The result is cached, since every new session needs it."""
    if listen.host in ("0.0.0.0", "::"):  # noqa: S104 - nothing is bound here; a link cannot name "all interfaces"
        listen = Address("127.0.0.1", listen.port)
    public = public_url or f"http://{listen}"
    return Urls(public, user_url or public, host_url or public)


class Storage(Table):
    url: Annotated[str, PlainValidator(addresses.parse_database_url)] = "sqlite:///tminus.db"
    """As written in the file; `paths.database` resolves it and reads the password."""
    password_file: str = ""
    password_credential: Annotated[str, PlainValidator(_credential)] = ""
    retention: Retention = timedelta(days=90)
    """None: closed sessions are never removed."""
    delivery_retention: Never0 = timedelta(days=30)
    """None: the delivery log is never shortened."""


class Organization(Table):
    id: Number = 1
    name: Name = "My organization"
    provider: Name = "tminus"


class Lifecycle(Table):
    lead: Annotated[Span, PlainValidator(values.duration())] = timedelta(minutes=10)
    new_timeout: Annotated[Span, PlainValidator(values.duration(zero=False, at_most="48h"))] = timedelta(hours=1)
    empty_timeout: Annotated[Span, PlainValidator(values.duration())] = timedelta(minutes=15)
    max_active: NeverEmpty = None
    horizon: Annotated[Span, PlainValidator(values.duration(zero=False))] = timedelta(days=730)
    duration: Annotated[Span, PlainValidator(values.duration(zero=False, at_most="24h"))] = timedelta(hours=1)
    """How long a session is planned to last, for calendars and overlaps. No session is closed at its end."""
    reminders: Annotated[
        tuple[Annotated[Span, PlainValidator(parse_reminder)], ...],
        Field(max_length=MAX_REMINDERS),
        AfterValidator(in_order),
    ] = ()
    """How long before its start people are reminded of a scheduled session, the longest first."""

    @cached_property
    def timeouts(self) -> Timeouts:
        return Timeouts(self.lead, self.new_timeout, self.empty_timeout, self.max_active)


class TypePolicy(Table):
    """The modes of one session type that differ from `[policy]`; None: no difference."""

    recording: Mode | None = None
    startwithrc: Mode | None = None
    startwithadmin: Mode | None = None
    knock: Mode | None = None
    audio: Mode | None = None


class Policy(Table):
    recording: Mode = Mode.AGENT
    startwithrc: Mode = Mode.AGENT
    startwithadmin: Mode = Mode.AGENT
    knock: Mode = Mode.AGENT
    audio: Mode = Mode.ALWAYS
    overlap: OverlapPolicy = OverlapPolicy.ALLOW
    support: TypePolicy = TypePolicy()
    live: TypePolicy = TypePolicy()
    cobrowse: TypePolicy = TypePolicy()
    replay: TypePolicy = TypePolicy()

    @cached_property
    def by_type(self) -> Mapping[SessionType, Mapping[Setting, Mode]]:
        """The modes of every session type, with its overrides applied."""
        return {
            session_type: {
                setting: getattr(getattr(self, session_type), setting) or getattr(self, setting) for setting in Setting
            }
            for session_type in SessionType
        }

    def modes(self, session_type: SessionType) -> Mapping[Setting, Mode]:
        """Return the mode of each setting for a session type. Cached, since every new session needs it."""
        return self.by_type[session_type]

    @cached_property
    def settings_text(self) -> Callable[[SessionType, frozenset[str]], str]:
        """The function that returns the settings of a new session as JSON, from its type and `policy.wishes`.

        Cached, since a batch has thousands of sessions with the same settings.
        """

        @lru_cache(maxsize=256)
        def text(session_type: SessionType, wishes: frozenset[str]) -> str:
            preferences = dict.fromkeys(wishes, True)
            return orjson.dumps(effective_settings(session_type, self.modes(session_type), preferences)).decode()

        return text


class Agent(Table):
    """A person or a program that calls the API with a token."""

    id: AgentNumber
    name: Name
    email: Email = ""
    external_id: ExternalId = ""
    roles: Annotated[frozenset[Role], Field(min_length=1), PlainSerializer(_in_order)]
    token_sha256: Annotated[tuple[TokenHash, ...], Field(max_length=100)] = Field(default=(), repr=False)
    expires: Annotated[
        datetime | None,
        PlainValidator(values.parse_expiry),
        PlainSerializer(lambda instant: timestamps.text(instant) if instant else ""),
    ] = None

    def has_expired(self, now: datetime) -> bool:
        """Return whether the agent's tokens have expired."""
        return self.expires is not None and self.expires <= now


class Webhook(Table):
    """An endpoint that receives events."""

    name: Annotated[str, PlainValidator(_endpoint_name)]
    url: Annotated[str, PlainValidator(addresses.parse_endpoint), PlainSerializer(addresses.endpoint_text)]
    secret_file: OneOrMore = ()
    """As written in the file; `paths.secrets` reads them. Signature schemes that allow one secret use the first."""
    secret_credential: Annotated[OneOrMore, AfterValidator(lambda names: tuple(map(_credential, names)))] = ()
    events: Annotated[tuple[EventPattern, ...], Field(min_length=1)] = ("*",)
    session_types: tuple[SessionType, ...] = ()
    """Empty: all."""
    content_type: Annotated[str, PlainValidator(_content_type)] = "application/json"
    timeout: Annotated[Span, PlainValidator(values.duration(zero=False, at_most="5m"))] = timedelta(seconds=10)
    batch: Annotated[int, Field(strict=True, ge=1, le=1000)] = 100
    give_up_after: Annotated[Span, PlainValidator(values.duration(zero=False))] = timedelta(days=3)
    from_: Literal["now", "beginning"] = Field(default="now", alias="from")
    ca_file: str = ""
    allow_link_local: Annotated[bool, Field(strict=True)] = False

    @property
    def subscribed_types(self) -> frozenset[EventType]:
        """The types of events that the endpoint receives."""
        return event_types(self.events)


class SeriesPreferences(new_sessions.AgentPrefs):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SeriesInvitee(new_sessions.NewInvitee):
    model_config = ConfigDict(frozen=True, extra="forbid")


SeriesInvitees = Annotated[
    Annotated[list[SeriesInvitee], Field(max_length=MAX_INVITEES)], AfterValidator(new_sessions.check_distinct)
]


class SeriesSession(new_sessions.SeriesSession):
    """What is in each session of a series, with the names of the API. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agentPrefs: SeriesPreferences | None = None  # noqa: N815 - the spelling of the API
    # Narrower than the field of the API. mypy refuses that for lists, because they can be changed.
    invitees: SeriesInvitees | None = None  # type: ignore[assignment]


class _Entry(BaseModel):
    name: Annotated[str, PlainValidator(_endpoint_name)]
    agent: AgentNumber
    """The id of the agent who owns the sessions."""


def _written(session: SeriesSession) -> dict[str, Any]:
    return session.model_dump(mode="json", exclude_unset=True)


class Series(new_sessions.NewSeries, _Entry):
    """A series of sessions that the daemon makes, changes and ends as the configuration says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: Annotated[SeriesSession, PlainSerializer(_written)]

    @model_validator(mode="after")
    def _check_density(self) -> Self:
        if self.is_too_dense():
            raise ValueError(f"must have at most {MAX_AHEAD} sessions within its horizon")
        return self


class Mail(Table):
    """The mail server that sends mail to invitees."""

    host: Annotated[str, PlainValidator(mail.parse_host)] = ""
    """"" for no mail."""
    port: Annotated[int, Field(strict=True, ge=0, le=65535)] = 0
    """0: the usual port of `security`; `server_port` resolves it."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: new_sessions.Short = ""
    password_file: str = ""
    password_credential: Annotated[str, PlainValidator(_credential)] = ""
    from_: Annotated[Mailbox, PlainValidator(mail.parse_mailbox), PlainSerializer(str)] = Field(
        default=mail.NOBODY, alias="from"
    )
    reply_to: Annotated[Mailbox, PlainValidator(mail.parse_mailbox), PlainSerializer(str)] = mail.NOBODY
    bounces_to: Annotated[Mailbox, PlainValidator(mail.parse_mailbox), PlainSerializer(str)] = mail.NOBODY
    """The envelope sender; none: that of `from`."""
    language: Literal["en", "de"] = "en"
    timezone: Annotated[str, PlainValidator(mail.parse_timezone)] = "UTC"
    templates: str = ""
    timeout: Annotated[Span, PlainValidator(values.duration(zero=False, at_most="5m"))] = timedelta(seconds=30)
    give_up_after: Annotated[Span, PlainValidator(values.duration(zero=False))] = timedelta(days=3)
    repeat_unanswered: Annotated[bool, Field(strict=True)] = False
    ca_file: str = ""

    @property
    def server_port(self) -> int:
        return self.port or {"starttls": 587, "tls": 465, "none": 25}[self.security]


class OidcRoles(Table):
    """For each role the groups whose members have it; `*` stands for everybody whom the issuer signs in."""

    agent: Groups = ()
    supervisor: Groups = ()
    group_admin: Groups = ()
    monitor: Groups = ()
    room: Groups = ()
    api: Groups = ()

    def of(self, groups: Iterable[str]) -> frozenset[Role]:
        """Return the roles of somebody in these groups."""
        own = {*groups, "*"}
        return frozenset(role for role, wanted in self._by_role.items() if not own.isdisjoint(wanted))

    @property
    def given(self) -> frozenset[Role]:
        """The roles that at least one group has."""
        return frozenset(role for role, wanted in self._by_role.items() if wanted)

    @property
    def _by_role(self) -> dict[Role, Groups]:
        return {
            Role.AGENT: self.agent,
            Role.SUPERVISOR: self.supervisor,
            Role.GROUP_ADMIN: self.group_admin,
            Role.MONITOR: self.monitor,
            Role.ROOM: self.room,
            Role.API: self.api,
        }


class Oidc(Table):
    """The OpenID Connect issuer by which agents sign in."""

    issuer: Issuer = ""
    """"" for none."""
    client_id: new_sessions.Short = ""
    client_secret_file: str = ""
    client_secret_credential: Annotated[str, PlainValidator(_credential)] = ""
    scopes: tuple[Scope, ...] = ("openid", "profile", "email")
    agent_claim: Claim = "sub"
    groups_claim: Claim = "groups"
    hosts: tuple[IssuerHost, ...] = ()
    ca_file: str = ""
    roles: OidcRoles = OidcRoles()

    def can_find(self, agent: Agent) -> bool:
        """Return whether a sign-in can find this configured agent."""
        return bool(self.issuer and self.value_of(agent))

    def value_of(self, agent: Agent) -> str:
        """Return the value of `agent_claim` by which a sign-in finds a configured agent; "" if none can."""
        return agent.email if self.agent_claim == "email" else agent.external_id

    def identity_of(self, agent: Agent) -> str:
        """Return a digest of the claim and the value by which sign-ins find a configured agent."""
        return sha256(f"{self.agent_claim} {self.value_of(agent)}".encode()).hexdigest()


class SignIn(Table):
    receivers: tuple[Receiver, ...] = ()
    """URLs of web pages to which a browser returns after the sign-in, without query and fragment."""
    oidc: Oidc = Oidc()


class Log(Table):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console", "journal"] = "auto"
    heartbeat: Never0 = timedelta(seconds=60)


class Rooms(Table):
    """The rooms that the daemon itself serves."""

    reconnect: Annotated[Span, PlainValidator(values.duration(zero=False, at_most="10m"))] = timedelta(seconds=15)
    """For how long somebody whose connection is lost counts as present."""
    restart: Annotated[Span, PlainValidator(values.duration(zero=False, at_most="10m"))] = timedelta(seconds=30)
    """The same for everybody when the daemon restarts."""
    knock_timeout: Annotated[Span, PlainValidator(values.duration(zero=False, at_most="24h"))] = timedelta(minutes=5)
    """For how long somebody who knocked waits for an answer."""


class Limits(Table):
    pin_lookups: Limit = Rate(20, 60)
    """Wrong PINs of one address without a challenge."""
    challenges: Limit = Rate(20, 60)
    """Challenges that one address gets at once."""
    challenge_guesses: Limit = Rate(10, 60)
    """Wrong PINs of one address with answers to challenges."""
    challenge_guesses_in_all: Limit = Rate(60, 60)
    """The same of all addresses together, at all daemons of a database."""
    failed_tokens: Limit = Rate(20, 60)
    connections: Number = 2000
    connections_per_address: Count = 1000
    """Maximum connections from one address that is not a trusted proxy; 0: no limit."""
    streams_per_address: Count = 500
    """Maximum streams and long polls of one address; 0: no limit."""
    streams_per_agent: Count = 400
    """Maximum streams and long polls of one agent; 0: no limit."""
    sessions_per_agent: Count = 10_000
    """Maximum open sessions of one agent; 0: no limit."""
    mails_per_agent: Limit = Rate(5000, 3600)
    """Mails to invitees that one agent may cause, at all daemons of a database."""
    websockets_per_address: Count = 200
    """Maximum WebSockets of one address; 0: no limit."""
    websocket_messages: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 20
    """Frames a second that the client of a WebSocket may send on average."""
    websocket_bytes: Annotated[
        int, PlainValidator(values.size(at_least="16KiB", at_most="64MiB")), PlainSerializer(values.size_text)
    ] = 64 * 1024
    """Bytes a second that it may send on average."""
    participants_per_session: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 1000
    """Maximum participants of a session at a time."""
    participant_name: Annotated[int, Field(strict=True, ge=1, le=255)] = 80
    """Maximum characters of the name that somebody enters a room with."""


class Settings(Table):
    """All settings. `config.load` returns them; `Settings()` has the defaults."""

    server: Server = Server()
    storage: Storage = Storage()
    organization: Organization = Organization()
    lifecycle: Lifecycle = Lifecycle()
    policy: Policy = Policy()
    agents: tuple[Agent, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    series: tuple[Series, ...] = ()
    mail: Mail = Mail()
    signin: SignIn = SignIn()
    log: Log = Log()
    rooms: Rooms = Rooms()
    limits: Limits = Limits()


def actor_names(settings: Settings) -> dict[str, str]:
    """Return the names of the agents by actor, as events name them, such as `agent:7`."""
    return {actor_of(agent.id, agent.roles): agent.name for agent in settings.agents}
