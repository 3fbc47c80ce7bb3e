"""The schemas of a new session and of a new series, by which the API and the configuration check them.

Validation reports all errors at once.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Self, TypeVar

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

from tminus.domain import timestamps
from tminus.domain.durations import duration_text
from tminus.domain.invitees import MAX_INVITEES, Invitee, as_json, check_address, mailbox_key
from tminus.domain.recurrence import (  # fmt: skip
    MAX_AHEAD,
    MAX_DATES,
    CreateSeries,
    Recurrence,
    local_text,
    parse_excluded,
    parse_horizon,
    parse_local,
    parse_rule,
    parse_zone,
)
from tminus.domain.reminders import MAX_REMINDERS, in_order, parse_reminder
from tminus.domain.types import CreateSession, ParticipantRole, SessionType

META_DATA_BYTES = 16 * 1024
"""Maximum bytes of `metaData` as JSON."""

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


def instant(value: Any) -> datetime:
    """Parse a time of a request. Raises `ValueError`."""
    if not isinstance(value, str):
        raise ValueError("must be text: an RFC 3339 date and time with Z or an offset")  # noqa: TRY004 - for pydantic
    return timestamps.parse(value)


Text = Printable[Annotated[str, Field(min_length=1, max_length=255)]]
Instant = Annotated[
    datetime, BeforeValidator(instant), WithJsonSchema({"type": "string", "format": "date-time"}, mode="validation")
]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _check_bounds(value: dict[str, Any], most: int) -> None:
    """Raise `ValueError` if a value that is stored unchanged is too long. `api.bodies` checks its depth."""
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


AnyInvitee = TypeVar("AnyInvitee", bound=NewInvitee)


def check_distinct(invitees: list[AnyInvitee]) -> list[AnyInvitee]:
    """Return invitees unchanged. Raises `ValueError` if two have the same address."""
    positions: dict[str, int] = {}
    for position, invitee in enumerate(invitees):
        if (first := positions.setdefault(mailbox_key(invitee.email), position)) != position:
            raise ValueError(f"must not have one address twice: {first} and {position}, counted from 0, are the same")
    return invitees


Invitees = Annotated[Annotated[list[NewInvitee], Field(max_length=MAX_INVITEES)], AfterValidator(check_distinct)]


Reminder = Annotated[
    timedelta,
    BeforeValidator(parse_reminder),
    PlainSerializer(duration_text),
    WithJsonSchema({"type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"}),
]


class NewSession(Request):
    """A new session, which opens at once, or at `startTime`."""

    has_series_start: ClassVar[bool] = False
    """Whether a series gives the session its start, and not `startTime`."""

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
        lacking = _lacking(sent, has_series_start=cls.has_series_start) if isinstance(sent, dict) else {}
        if not lacking:
            return check(sent)
        # Not an "after" validator: it would not run if a field has an error, and all errors are to be reported.
        found: list[InitErrorDetails] = []
        try:
            check(sent)
        except ValidationError as error:
            found += error.errors(include_url=False)  # type: ignore[arg-type]  # pydantic accepts its own errors
        for missing, given in lacking.items():
            problem = {"error": ValueError(f"must come together with {given}")}
            found.append(InitErrorDetails(type="value_error", loc=(missing,), input=None, ctx=problem))
        raise ValidationError.from_exception_data(cls.__name__, found)

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


def _lacking(sent: Mapping[str, Any], *, has_series_start: bool) -> dict[str, str]:
    """Return the members that a new session lacks: name -> the member that must not come without it."""
    has = {name: sent.get(name) is not None for name in ("externalMapping", "parentObject", "startTime")}
    lacking = {}
    if has["externalMapping"] is not has["parentObject"]:
        missing, given = sorted(("externalMapping", "parentObject"), key=has.__getitem__)
        lacking[missing] = given
    if sent.get("reminders") and not has_series_start and not has["startTime"]:
        lacking["startTime"] = "reminders"
    return lacking


class SeriesSession(NewSession):
    """What is in each session of a series. The series has the start."""

    has_series_start: ClassVar[bool] = True

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


# Unknown members of a session are accepted, but not stored: nothing limits their size.
_STORED: Any = dict.fromkeys(SeriesSession.model_fields, True) | {
    "invitees": {"__all__": dict.fromkeys(NewInvitee.model_fields, True)}
}


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

    def is_too_dense(self) -> bool:
        """Return whether the series would have more sessions within its horizon than it may have."""
        after = self.dtstart - timedelta(days=1)
        found = self._recurrence().between(after, self.dtstart + self.horizon, MAX_AHEAD + 1)
        return len(found) > MAX_AHEAD

    def create_series(self) -> CreateSeries:
        """Return the command that creates this series."""
        sent = self.session.model_dump(mode="json", exclude_unset=True, include=_STORED)
        return CreateSeries(self._recurrence(), self.horizon, self.session.create_session(), sent)

    def _recurrence(self) -> Recurrence:
        return Recurrence(
            self.dtstart,
            self.timezone,
            None if self.rrule is None else parse_rule(self.rrule),
            frozenset(self.exdates),
            tuple(self.rdates),
        )
