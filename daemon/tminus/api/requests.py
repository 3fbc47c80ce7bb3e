"""Schemas of requests. Validation reports all faults of a request at once, before any command runs."""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    StrictBool,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails

from tminus.api.parameters import Header
from tminus.domain import timestamps
from tminus.domain.durations import duration_text, parse_duration
from tminus.domain.errors import FieldError, InvalidRequest
from tminus.domain.invitees import MAX_INVITEES, Invitee, as_json, check_address, same_mailbox
from tminus.domain.recurrence import (  # fmt: skip
    MAX_DATES,
    Recurrence,
    local_text,
    parse_excluded,
    parse_horizon,
    parse_local,
    parse_rule,
    parse_zone,
)
from tminus.domain.reminders import MAX_REMINDERS, in_order, parse_reminder
from tminus.domain.types import (
    MAX_SESSIONS,
    OPEN_STATUSES,
    Caller,
    CreateSession,
    EventPattern,
    EventType,
    ParticipantRole,
    SessionType,
    Status,
)
from tminus.sessions import series
from tminus.sessions.series import MAX_AHEAD
from tminus.storage import SessionFilter

DURATION_PATTERN = r"^(0|(?=[0-9])([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$"

META_DATA_BYTES = 16 * 1024
PARENT_BYTES = 4 * 1024
"""Maximum bytes of a parent object as JSON, unknown members included. Each event contains the parent object."""


def _printable(text: str) -> str:
    if not text.isprintable() and any(unicodedata.category(char) == "Cc" for char in text):
        raise ValueError("must not contain control characters")
    return text


S = TypeVar("S", bound=str)

# The OpenAPI document has the rule as a pattern; the error message has it in words. Length limits belong inside the
# inner `Annotated`: applied after a validator function, pydantic's messages count "items" instead of characters.
Printable = Annotated[
    S, AfterValidator(_printable), Field(json_schema_extra={"pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"})
]
Short = Printable[Annotated[str, Field(max_length=255)]]


def _instant(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError("must be text: an RFC 3339 date and time with Z or an offset")  # noqa: TRY004 - for pydantic
    return timestamps.parse(value)


Text = Printable[Annotated[str, Field(min_length=1, max_length=255)]]
Instant = Annotated[
    datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"}, mode="validation")
]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _check_bounds(value: dict[str, Any], most: int) -> None:
    """Raise `ValueError` if a value that is stored unchanged is too long. `bodies` checks its depth."""
    try:
        size = len(orjson.dumps(value))
    except TypeError as error:  # integers beyond 64 bits, or nesting beyond orjson's limit
        raise ValueError(f"cannot be stored: {error}") from None
    if size > most:
        raise ValueError(f"must be at most {most} bytes of JSON")


def _check_meta_data(meta_data: dict[str, Any]) -> dict[str, Any]:
    _check_bounds(meta_data, META_DATA_BYTES)
    return meta_data


_IN_NO_PATH = re.compile(r"[?#\\]|%[0-9A-Fa-f]{2}|(?:^|/)\.{1,2}(?:/|$)")
"""Text that an unencoded URL path does not preserve, in the order of the message below."""


def _look_up_key(key: str) -> str:
    if _IN_NO_PATH.search(key):
        raise ValueError(
            'must not contain "?", "#", "\\", "%" with two hex digits, or "." or ".." between slashes: it is looked up '
            "as part of a path, which clients of the original do not encode"
        )
    return key


LookUpKey = Annotated[
    Text,
    AfterValidator(_look_up_key),
    Field(
        json_schema_extra={"pattern": r"^[^\u0000-\u001f\u007f-\u009f?#\\]*$"},
    ),
]

MetaData = Annotated[dict[str, Any], AfterValidator(_check_meta_data)]


class Request(BaseModel):
    """A request body. Unknown members are accepted, since clients of the original send more than the API needs."""

    model_config = ConfigDict(extra="allow")


class AgentPrefs(BaseModel):
    """Preferences of the agent. A missing one is false; those that the session type does not support are ignored."""

    record: StrictBool = False
    prerequestrc: StrictBool = False
    prerequestadmin: StrictBool = False
    knock: StrictBool = False
    audio: StrictBool = False


class ParentObject(Request):
    """The object of another system to which a session belongs: at most 4 KiB of JSON."""

    id: Short
    app: Short | None = None
    type: Short | None = None
    name: Short | None = None
    sync: StrictBool | None = None
    provider: Short | None = None

    @model_validator(mode="before")
    @classmethod
    def _trim_names(cls, value: Any) -> Any:
        # Published examples of the original have a member "app " with a blank, and users copy them.
        if not isinstance(value, dict):
            return value
        trimmed = {name if name.strip() in value else name.strip(): member for name, member in value.items()}
        if len(trimmed) < len(value):
            raise ValueError("must not have two members whose names differ only in surrounding blanks")
        return trimmed


def _check_parent(parent: ParentObject) -> ParentObject:
    _check_bounds(parent.model_dump(exclude_unset=True), PARENT_BYTES)
    return parent


Address = Annotated[
    str, Field(min_length=3, max_length=254, json_schema_extra={"format": "email"}), AfterValidator(check_address)
]


class NewInvitee(Request):
    """Somebody to invite."""

    email: Address
    name: Short = ""
    role: ParticipantRole = ParticipantRole.GUEST


def _check_distinct(invitees: list[NewInvitee]) -> list[NewInvitee]:
    positions: dict[str, int] = {}
    for position, invitee in enumerate(invitees):
        if (first := positions.setdefault(same_mailbox(invitee.email), position)) != position:
            raise ValueError(f"must not have one address twice: {first} and {position}, counted from 0, are the same")
    return invitees


Invitees = Annotated[Annotated[list[NewInvitee], Field(max_length=MAX_INVITEES)], AfterValidator(_check_distinct)]


Reminder = Annotated[
    timedelta,
    BeforeValidator(parse_reminder),
    WithJsonSchema({"type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"}),
]


class NewSession(Request):
    """A new session, which opens at once, or at `startTime`."""

    is_scheduled: ClassVar[bool] = False
    """Whether it has a start that is not in `startTime`."""

    type: SessionType
    label: Text
    userDescription: Short | None = None
    agentPrefs: AgentPrefs | None = None
    externalMapping: LookUpKey | None = None
    parentObject: Annotated[ParentObject, AfterValidator(_check_parent)] | None = None
    metaData: MetaData | None = None
    startTime: Instant | None = None
    invitees: Invitees | None = None
    reminders: Annotated[list[Reminder], Field(max_length=MAX_REMINDERS)] | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _check_pairs(cls, sent: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        lacking = _lacking(sent, is_scheduled=cls.is_scheduled) if isinstance(sent, dict) else {}
        if not lacking:
            return check(sent)
        # Validated here, since an "after" validator would not run if a field has a fault, and all faults are reported.
        faults: list[InitErrorDetails] = []
        try:
            check(sent)
        except ValidationError as error:
            faults += error.errors(include_url=False)  # type: ignore[arg-type]  # pydantic accepts its own errors
        for missing, given in lacking.items():
            problem = {"error": ValueError(f"must come together with {given}")}
            faults.append(InitErrorDetails(type="value_error", loc=(missing,), input=None, ctx=problem))
        raise ValidationError.from_exception_data(cls.__name__, faults)

    def create_session(self) -> CreateSession:
        """Return the command that creates this session."""
        return CreateSession(
            type=self.type,
            label=self.label,
            user_description=self.userDescription or None,
            preferences=dict(self.agentPrefs) if self.agentPrefs else {},
            external_mapping=self.externalMapping,
            parent_object=_json(self.parentObject.model_dump(exclude_unset=True)) if self.parentObject else None,
            meta_data=None if self.metaData is None else _json(self.metaData),
            start_time=self.startTime,
            invitees=as_json(Invitee(one.email, one.name, one.role) for one in self.invitees or ()),
            reminders=None if self.reminders is None else in_order(self.reminders),
        )


def _lacking(sent: Mapping[str, Any], *, is_scheduled: bool) -> dict[str, str]:
    """Return the members that a new session lacks: name -> the member that must not come without it.

    `is_scheduled`: whether it has a start that is not in `startTime`.
    """
    has = {name: sent.get(name) is not None for name in ("externalMapping", "parentObject", "startTime")}
    lacking = {}
    if has["externalMapping"] is not has["parentObject"]:
        missing, given = sorted(("externalMapping", "parentObject"), key=has.__getitem__)
        lacking[missing] = given
    if sent.get("reminders") and not is_scheduled and not has["startTime"]:
        lacking["startTime"] = "reminders"
    return lacking


class NewSessions(Request):
    """Many new sessions, at most 10,000."""

    sessions: Annotated[list[NewSession], Field(min_length=1, max_length=MAX_SESSIONS)]
    dryRun: StrictBool = False


SessionId = Printable[Annotated[str, Field(min_length=1, max_length=64)]]
SessionIds = Annotated[list[SessionId], Field(min_length=1, max_length=MAX_SESSIONS)]


def _shift(value: Any) -> timedelta:
    if not isinstance(value, str):
        raise ValueError('must be a duration such as "30m" or "-1h30m"')  # noqa: TRY004 - for pydantic
    sign, digits = (value[0], value[1:]) if value[:1] in ("+", "-") else ("", value)
    span = parse_duration(digits)
    return -span if sign == "-" else span


Shift = Annotated[
    timedelta,
    BeforeValidator(_shift),
    WithJsonSchema({"type": "string", "pattern": f"^[+-]?{DURATION_PATTERN[1:]}"}, mode="validation"),
]


class BatchFilter(BaseModel):
    """Conditions for the sessions of a batch. Unknown ones are refused: a misspelt one would match too many."""

    model_config = ConfigDict(extra="forbid")

    type: SessionType | None = None
    status: Annotated[list[Status], Field(min_length=1)] | None = None
    startFrom: Instant | None = None
    startTo: Instant | None = None
    externalMapping: LookUpKey | None = None
    scope: Literal["mine", "all"] = "mine"

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not self.model_fields_set - {"scope"}:
            raise ValueError("must have at least one condition")
        return self

    def sessions(self, caller: Caller) -> SessionFilter:
        """Return the filter for the sessions of this caller."""
        return SessionFilter(
            agent_id=caller.agent_id if self.scope == "mine" else None,
            statuses=OPEN_STATUSES if self.status is None else self.status,
            type=self.type,
            start_from=self.startFrom,
            start_to=self.startTo,
            external_mapping=self.externalMapping,
            order_by="start_time",
            descending=False,
        )


class MovedSession(BaseModel):
    """A session and its new start."""

    model_config = ConfigDict(extra="forbid")

    id: SessionId
    startTime: Instant
    version: Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)] | None = None


class _Chosen(Request):
    """Sessions by id or by a filter."""

    ids: SessionIds | None = None
    filter: BatchFilter | None = None
    dryRun: StrictBool = False


class MovedSessions(_Chosen):
    """The sessions to move: `sessions` with their new starts, or `ids` or `filter` with `by`."""

    sessions: Annotated[list[MovedSession], Field(min_length=1, max_length=MAX_SESSIONS)] | None = None
    by: Shift | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        _check_one_of(self, "sessions", "ids", "filter")
        if (self.by is None) is (self.sessions is None):
            raise ValueError("by must come together with ids or filter, and only with these")
        return self


class ClosedSessions(_Chosen):
    """The sessions to close: exactly one of the members `ids` and `filter`."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        _check_one_of(self, "ids", "filter")
        return self


def _check_one_of(request: BaseModel, *names: str) -> None:
    if sum(getattr(request, name) is not None for name in names) != 1:
        raise ValueError(f"exactly one of {', '.join(names[:-1])} and {names[-1]} must be given")


class SeriesSession(NewSession):
    """What is in each session of a series. The series has the start."""

    is_scheduled: ClassVar[bool] = True

    startTime: None = None


LocalTime = Annotated[
    datetime,
    BeforeValidator(parse_local),
    PlainSerializer(local_text),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?$"}),
]
Excluded = Annotated[
    str,
    BeforeValidator(parse_excluded),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?)?$"}),
]
Horizon = Annotated[
    timedelta,
    BeforeValidator(parse_horizon),
    PlainSerializer(duration_text),
    WithJsonSchema({"type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"}),
]


def _check_rule(text: Any) -> str:
    return parse_rule(text).text


class NewSeries(Request):
    """A series of sessions, in the local time of a time zone."""

    rrule: Annotated[str, BeforeValidator(_check_rule), Field(min_length=1, max_length=500)] | None = None
    dtstart: LocalTime
    timezone: Annotated[str, BeforeValidator(parse_zone), Field(max_length=95)]
    exdates: Annotated[list[Excluded], Field(max_length=MAX_DATES)] = []
    rdates: Annotated[list[LocalTime], Field(max_length=MAX_DATES)] = []
    horizon: Horizon = timedelta(days=30)
    session: SeriesSession

    def order(self) -> series.NewSeries:
        """Return the command that creates this series. Raises `InvalidRequest` if it has too many sessions."""
        when = Recurrence(
            self.dtstart,
            self.timezone,
            None if self.rrule is None else parse_rule(self.rrule),
            frozenset(self.exdates),
            tuple(self.rdates),
        )
        if len(when.between(self.dtstart - timedelta(days=1), self.dtstart + self.horizon, MAX_AHEAD + 1)) > MAX_AHEAD:
            problem = f"is too long: the series would have more than {MAX_AHEAD} sessions in this time"
            raise InvalidRequest([FieldError("horizon", problem)])
        sent = self.session.model_dump(mode="json", exclude_unset=True)
        return series.NewSeries(when, self.horizon, self.session.create_session(), sent)


class NewStart(Request):
    """A new start for a scheduled session."""

    startTime: Instant


class NewParticipant(Request):
    """A participant who joined a room, or who waits to be admitted."""

    role: ParticipantRole
    name: Text
    knock: Annotated[StrictBool, Field(description="Whether the participant waits to be admitted")] = False


class Admission(Request):
    """The host's decision about a participant who knocked."""

    admitted: StrictBool


class ReplayOrder(Request):
    """The events to send to an endpoint again: exactly one of the three members."""

    fromSeq: Annotated[int, Field(ge=1, le=2**63 - 1, strict=True)] | None = None
    since: Instant | None = None
    session: Printable[Annotated[str, Field(min_length=1, max_length=64)]] | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if sum(given is not None for given in (self.fromSeq, self.since, self.session)) != 1:
            raise ValueError("exactly one of fromSeq, since and session must be given")
        return self


def _span(value: Any) -> timedelta:
    return parse_duration(value)


def _moment(value: Any) -> datetime | Literal["next"]:
    return "next" if value == "next" else _instant(value)


class ClockOrder(Request):
    """A move of the test clock: exactly one of the two members."""

    advance: Annotated[
        timedelta | None,
        BeforeValidator(_span),
        WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}, mode="validation"),
    ] = None
    to: Annotated[
        datetime | Literal["next"] | None,
        BeforeValidator(_moment),
        WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"const": "next"}]}, mode="validation"),
    ] = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.advance is None) is (self.to is None):
            raise ValueError("exactly one of advance and to must be given")
        return self


class SampleOrder(Request):
    """A sample event to send to an endpoint."""

    type: EventType


class TokenSignIn(Request):
    """A configured token that starts an agent session."""

    session_token: Annotated[str, Field(max_length=1024, json_schema_extra={"pattern": r"^[^\u0000]*$"})]


class SupportConnect(Request):
    """The PIN that a device joins with. The data of the device that the original's clients add are ignored."""

    code: Printable[Annotated[str, Field(min_length=1, max_length=64)]]


class LiveConnect(Request):
    """The id of the session that a device joins."""

    code: Printable[Annotated[str, Field(min_length=1, max_length=64)]]


IdempotencyKey = Annotated[
    str | None,
    Header("Idempotency-Key"),
    Field(
        min_length=1, max_length=255, pattern="^[ -~]+$",
        description="A repeated request with the same key returns the result of the first one",
    ),
]  # fmt: skip

IfMatchHeader = Annotated[
    str | None,
    WithJsonSchema({"type": "string", "pattern": r'^(\*|(W/)?"[!#-~]*"(, (W/)?"[!#-~]*")*)$'}),
    Header("If-Match"),
    Field(description='The versions that the caller expects, such as "3"; `*` for any version'),
]


DryRun = Annotated[bool, Field(description="Answer what would happen, and do nothing; the same as in the body")]
Limit = Annotated[int, Field(ge=1, le=1000, description="Maximum number of rows in a page; a page also ends at 2 MiB")]
Offset = Annotated[int, Field(ge=0, le=2**31 - 1, description="Number of rows to skip")]
After = Annotated[int, Field(ge=0, le=2**63 - 1, description="`next` of the previous page")]


def _feed_cursor(text: object) -> int | None:
    if text == "now":
        return None
    if not isinstance(text, int) and not (isinstance(text, str) and re.fullmatch("[0-9]{1,19}", text)):
        raise ValueError("must be the number of an event, or now")
    if (number := int(text)) >= 2**63:
        raise ValueError(f"must be at most {2**63 - 1}")
    return number


FeedCursor = Annotated[
    int | None,
    BeforeValidator(_feed_cursor),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, {"const": "now"}]}),
    Field(description="`next` of the previous page; `now` for future events only"),
]
EventTypes = Annotated[
    list[EventPattern] | None,
    Field(description="Types of events; may be repeated. `session.*` means all types that begin with `session.`"),
]
Search = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=255,
        description="Only sessions whose label or parent object contains this text; case is ignored. One request "
        "searches 5,000 sessions; `next` in the response is the `offset` for the next request, or null at the end",
    ),
]
Statuses = Annotated[
    list[Status], Field(description="Statuses of sessions; may be repeated. By default all but `closed`")
]
