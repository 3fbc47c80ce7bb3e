"""The JSON objects that the API and the Python client return, as typed dictionaries.

Times are RFC 3339 in UTC with milliseconds and `Z`. Field names are exactly those of the original API.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict  # pydantic supports typing.TypedDict only from Python 3.12 on

Instant = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
SessionType = Literal["support", "cobrowse", "live", "replay"]
Product = Literal["support", "cobrowse", "live", "replay", "beam"]
Status = Literal["scheduled", "new", "active", "closed"]
CloseReason = Literal["cancelled", "closed", "expired", "empty", "time_limit"]
ParticipantRole = Literal["host", "guest"]
EndpointState = Literal["idle", "behind", "failing", "paused"]
PauseReason = Literal["gone", "gave_up", "operator"]
AgentSource = Literal["configuration", "oidc", "removed"]
DeliveryKind = Literal["events", "replay", "ping", "sample"]


class Roles(TypedDict):
    """The roles that the original API shows: `monitor` and `room` are not among them."""

    api: bool
    agent: bool
    supervisor: bool
    group_admin: bool


class AgentSession(TypedDict):
    """The agent session of a caller: who signed in, when and from where. It does not contain the secret."""

    sid: int
    roles: Roles
    features: None
    providerExternalId: str
    provider: str
    startedAt: Instant
    expiresAt: Instant
    clientApp: str
    userAgent: str
    remoteIp: str


class Settings(TypedDict):
    """The settings in force in a session."""

    recording: bool
    startwithadmin: bool
    startwithrc: bool
    knock: bool
    audio: bool


class SessionUrls(TypedDict):
    """The links to the session. `host` is present only for callers who may host."""

    user: str
    host: NotRequired[str]


class Invitee(TypedDict):
    """Somebody who was invited when the session was created."""

    email: str
    name: str
    role: ParticipantRole


class Session(TypedDict):
    """A session. `startTime` is present if it was scheduled, `opensAt` while it is scheduled, and `hostAuthToken` and
    `invitees` for callers who may host. `overlaps` is present in the answer to a change, if `policy.overlap` is `warn`
    and there are such sessions.
    """

    unattended: bool
    scheduled: bool
    id: str
    type: SessionType
    label: str
    startTime: NotRequired[Instant]
    userDescription: str
    ExternalUserId: int
    OrganizationId: int
    createdByAgentSession: AgentSession
    status: Status
    updatedAt: Instant
    createdAt: Instant
    pin: int
    hostAuthToken: NotRequired[str]
    expiresAt: Instant
    settings: Settings
    externalSessionObjectId: str
    urls: SessionUrls
    version: int
    opensAt: NotRequired[Instant]
    openedAt: Instant | None
    activatedAt: Instant | None
    closedAt: Instant | None
    closeReason: CloseReason | None
    durationSeconds: int
    externalMapping: str | None
    parentObject: dict[str, Any] | None
    metaData: dict[str, Any] | None
    invitees: NotRequired[list[Invitee]]
    reminders: list[str]
    seriesId: str | None
    seriesStart: str | None
    participants: int
    overlaps: NotRequired[list[str]]


class PlannedSession(TypedDict):
    """A session as it would be after a batch. `id` is null if the batch would create it."""

    id: str | None
    type: SessionType
    label: str
    status: Status
    startTime: Instant | None
    opensAt: Instant | None
    expiresAt: Instant


class SessionBatch(TypedDict):
    """The sessions of a batch, in the order of the request; after a dry run `planned` in place of `sessions`."""

    sessions: NotRequired[list[Session]]
    dryRun: NotRequired[bool]
    planned: NotRequired[list[PlannedSession]]


class SessionList(TypedDict):
    """One page of a list. `count` is the number of all matching sessions; with `search` it is the number on this page,
    and `next` is the `offset` of the next page, or null at the end.
    """

    count: int
    rows: list[Session]
    next: NotRequired[int | None]


class Occurrence(TypedDict):
    """A session of a series. `moved`: whether somebody moved this session alone."""

    localStart: str
    session: str
    startTime: Instant
    status: Status
    moved: bool


class Series(TypedDict):
    """A series of sessions. `occurrences` are the next ones that have been made, at most 100; lists have none."""

    id: str
    rrule: str | None
    dtstart: str
    timezone: str
    exdates: list[str]
    rdates: list[str]
    horizon: str
    session: dict[str, Any]
    ends: str | None
    ExternalUserId: int
    version: int
    createdAt: Instant
    updatedAt: Instant
    endedAt: Instant | None
    follows: str | None
    entry: str | None
    occurrences: NotRequired[list[Occurrence]]


class SeriesList(TypedDict):
    """A page of series. `next` is the value of `after` for the next page; null on the last one."""

    series: list[Series]
    next: str | None


class Success(TypedDict):
    """The answer to a call that returns no data."""

    success: Literal[True]


class Joined(TypedDict):
    """The answer to a reported join."""

    participantId: str


class History(TypedDict):
    """Events, the oldest first. `next` is the value of `after` for the next page."""

    events: list["Event"]
    next: int


class Webhook(TypedDict):
    """A webhook endpoint and the status of its deliveries."""

    name: str
    url: str
    state: EndpointState
    events: list[str]
    sessionTypes: list[SessionType]
    cursor: int
    backlog: int
    oldestUndelivered: Instant | None
    failures: int
    failingSince: Instant | None
    retryAt: Instant | None
    lastError: str | None
    deliveredAt: Instant | None
    pausedAt: Instant | None
    pauseReason: PauseReason | None
    replays: int


class Agent(TypedDict):
    """An agent. `source` is `removed` if the agent is shut out, and not in the configuration any more.

    `issuer` and `subject` are null for agents of the configuration. `signedInAt`: the last start of an agent session.
    """

    id: int
    name: str
    email: str
    roles: list[str]
    source: AgentSource
    issuer: str | None
    subject: str | None
    signedInAt: Instant | None
    shutOutAt: Instant | None


class Agents(TypedDict):
    """A page of agents. `next` is null on the last page."""

    agents: list[Agent]
    next: int | None


class BusyInterval(TypedDict):
    """A time at which an agent has a session: from `start`, up to but not including `end`."""

    start: Instant
    end: Instant


class FreeBusy(TypedDict):
    """The times between `start` and `end` at which an agent is busy, in order. They neither overlap nor touch."""

    agent: int
    start: Instant
    end: Instant
    busy: list[BusyInterval]


class CalendarAddress(TypedDict):
    """The address of an agent's calendar. It is shown once, since the daemon stores only a hash of it."""

    url: str
    createdAt: Instant


class Webhooks(TypedDict):
    """All endpoints, in the order of the configuration."""

    webhooks: list[Webhook]


class Delivery(TypedDict):
    """One delivery attempt. `status` is null if the endpoint did not answer."""

    id: int
    kind: DeliveryKind
    webhookId: str
    firstSeq: int | None
    lastSeq: int | None
    events: int
    at: Instant
    ok: bool
    status: int | None
    ms: int
    error: str | None
    answer: str | None


class Deliveries(TypedDict):
    """The delivery log of an endpoint, the newest first. `next` is the value of `before` for the next page, or null at
    the end.
    """

    deliveries: list[Delivery]
    next: int | None


class Replay(TypedDict):
    """A replay: the daemon sends again the events from `fromSeq` to `toSeq` that the endpoint subscribes to."""

    replay: int
    fromSeq: int
    toSeq: int
    session: str | None


class EventUser(TypedDict):
    """The agent who owns the session."""

    id: int
    name: str
    externalId: str


class EventParticipant(TypedDict):
    """The participant whom the event is about."""

    id: str
    role: ParticipantRole
    name: str


class EventStats(TypedDict):
    """Counts at the time of the event."""

    participants: int


class Event(TypedDict):
    """An event; `docs/events.md` lists the fields of each type."""

    seq: int
    eventId: str
    type: str
    ts: Instant
    message: str
    actor: str
    id: str
    label: str
    userDescription: str
    status: Status
    previousStatus: Status | None
    startTime: Instant | None
    expiresAt: Instant
    seconds: int
    user: EventUser
    organization: int
    settings: Settings
    createdByAgentSession: AgentSession
    crmSyncTarget: dict[str, Any] | None
    stats: EventStats
    previousStartTime: NotRequired[Instant]
    before: NotRequired[str]
    lagMs: NotRequired[int]
    reason: NotRequired[CloseReason]
    actorName: NotRequired[str]
    participant: NotRequired[EventParticipant]
    participants: NotRequired[int]


class Server(TypedDict):
    """The server of an active session."""

    region: str
    endpoint: str
    serverInstanceId: str


class Discovered(TypedDict):
    """An active session. `ts` is the time of the answer in milliseconds since 1970."""

    id: str
    type: SessionType
    ts: int
    servers: dict[str, Server]


class ClientInfo(TypedDict):
    """The addresses from which client applications are downloaded; a client appends the PIN."""

    win_download_url: str
    mac_download_url: str
    ios_itunes_url: str
    android_package_id: str


class PinMeta(TypedDict):
    """The public data of a session, which the API returns for its PIN."""

    id: str
    pin: int
    type: SessionType
    label: str
    userDescription: str
    status: Status
    settings: Settings
    expiresAt: Instant
    OrganizationId: int
    client_info: ClientInfo


class Challenge(TypedDict):
    """A picture with digits. Its answer allows one look-up of a PIN."""

    uuid: str
    challengeDisplay: str
    """An SVG document."""
    createdAt: Instant


class DoorServer(Server):
    """The server of a session, for a mobile client."""

    id: int


class SupportServers(TypedDict):
    support: DoorServer


class LiveServers(TypedDict):
    live: DoorServer


class SupportConnection(TypedDict):
    """The session of a PIN and its server."""

    id: str
    pin: int
    label: str
    userDescription: str
    hostAuthToken: str
    """Always empty: the original's clients require it, and the PIN alone makes nobody a host."""
    servers: SupportServers
    settings: Settings


class LiveConnection(TypedDict):
    """A session and its server."""

    id: str
    label: str
    servers: LiveServers


class OwnAgentSession(AgentSession):
    """The caller's own agent session. `id` is the secret that the caller sends in the header `Session-id`."""

    id: str
    ExternalUserId: int
    OrganizationId: int
    CustomerId: int
    name: str
    isActive: bool
    lastActiveAt: Instant
    createdAt: Instant
    updatedAt: Instant


class Organization(TypedDict):
    provider: str
    name: str
    externalId: str
    id: int
    CustomerId: int


class User(TypedDict):
    name: str
    email: str
    externalId: str
    id: int


class Me(TypedDict):
    """The caller. `products[type][preference]` is true if the agent chooses that setting for each session."""

    session: OwnAgentSession
    roles: Roles
    org: Organization
    user: User
    products: dict[Product, dict[str, bool]]


class WidgetConfig(TypedDict):
    """The available products, and the URLs from which a client builds links."""

    remote_support: bool
    cobrowse: bool
    live: bool
    replay: bool
    viewer_base_url: str
    activation_base_url: str
    vanity_url: str
    agent_portal_base_url: str
    replay_url: str
    live_url: str
    embedded_live_url: str


class EndpointConfig(TypedDict):
    widgetConfig: WidgetConfig


class CobrowseDeployment(TypedDict):
    """Where participants join cobrowse sessions: a client appends `#cobrowse_pin=` and the PIN to
    `https://{entrypoint}`.
    """

    id: int
    key: str
    name: str
    OrganizationId: int
    entrypoint: str
    is_multidomain: bool
    CobrowseDomains: list[dict[str, Any]]
    createdAt: Instant
    updatedAt: Instant


class FieldError(TypedDict):
    field: str
    message: str


class Error(TypedDict):
    """An answer whose status is not 200. `code` is the HTTP status; clients switch on `refcode`."""

    code: int
    refcode: int
    description: str
    errors: Annotated[
        list[FieldError], Field(description="Every error in the request's fields, for refcodes that end in 400")
    ]


class Health(TypedDict):
    """The answer of a running process. `testClock` is the time of the test clock, if the daemon runs on one."""

    status: Literal["ok"]
    testClock: NotRequired[Instant]


class Clock(TypedDict):
    """The daemon's clock. `nextDeadline` is null if nothing is due at any time."""

    now: Instant
    test: bool
    nextDeadline: Instant | None


class ReportCounts(TypedDict):
    """Numbers of sessions by outcome. `attended`, `noShows` and `cancelled` add up to `sessions`."""

    sessions: int
    attended: int
    noShows: int
    cancelled: int


class ReportOfType(ReportCounts):
    """The sessions of one type."""

    type: SessionType


class ReportOfAgent(ReportCounts):
    """The sessions of one agent."""

    agent: int
    name: str | None


class ReportOfReason(TypedDict):
    """The sessions that closed for one reason."""

    reason: str
    sessions: int


class ReportNumbers(TypedDict):
    """A summary of numbers; all but `count` are null if there are none."""

    count: int
    mean: float | None
    p50: int | None
    p99: int | None
    max: int | None


class Report(ReportCounts):
    """What happened in a period: the sessions that closed in it."""

    since: Instant
    until: Instant
    zone: str
    byType: list[ReportOfType]
    byAgent: list[ReportOfAgent]
    moreAgents: int
    byReason: list[ReportOfReason]
    byHour: list[int]
    waitingSeconds: ReportNumbers
    lengthSeconds: ReportNumbers
    lagMs: ReportNumbers


# A field is named `from`, so this is no class.
ClockMove = TypedDict(
    "ClockMove",
    {
        "from": Instant,
        "now": Instant,
        "target": Instant,
        "reached": bool,
        "nextDeadline": Instant | None,
        "events": list["Event"],
        "next": int,
    },
)
"""What happened while the test clock moved."""


class Readiness(TypedDict):
    """Whether the daemon can serve requests, and if not, why. `notes` are warnings for an operator."""

    ready: bool
    reasons: list[str]
    notes: list[str]
