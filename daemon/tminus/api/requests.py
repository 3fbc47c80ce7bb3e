"""Schemas of requests. Validation reports all errors of a request at once, before any command runs."""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, WithJsonSchema, model_validator

from tminus import new_sessions
from tminus.api.parameters import Header
from tminus.domain.durations import parse_duration
from tminus.domain.errors import FieldError, InvalidRequest
from tminus.domain.recurrence import MAX_AHEAD, CreateSeries
from tminus.domain.types import (
    MAX_SESSIONS,
    OPEN_STATUSES,
    Caller,
    EventPattern,
    EventType,
    ParticipantRole,
    SessionType,
    Status,
)
from tminus.new_sessions import Instant, LookUpKey, NewSession, Printable, Request, Text, instant
from tminus.storage import SessionFilter

DURATION_PATTERN = r"^(0|(?=[0-9])([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$"


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


class NewSeries(new_sessions.NewSeries):
    """A series of sessions, in the local time of a time zone."""

    def create_series(self) -> CreateSeries:
        """Return the command that creates this series. Raises `InvalidRequest` if it has too many sessions."""
        if self.is_too_dense():
            problem = f"is too long: the series would have more than {MAX_AHEAD} sessions in this time"
            raise InvalidRequest([FieldError("horizon", problem)])
        return super().create_series()


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
    return "next" if value == "next" else instant(value)


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
    """The PIN with which a device joins. Data about the device, which the original's clients add, is ignored."""

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


DryRun = Annotated[bool, Field(description="Return what would happen, and change nothing; the same as in the body")]
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
