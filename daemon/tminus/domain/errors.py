"""All errors that tminus raises: one class for each cause.

::

    TminusError
    ├── RequestError                   answered to the caller with refcode and description
    │   ├── InvalidRequest       x400  the request's shape
    │   ├── CrossSite            x403
    │   ├── UnknownPath          x404
    │   ├── MethodNotAllowed     x405
    │   ├── RequestTimeout       x408
    │   ├── BodyTooLarge         x413
    │   ├── UnsupportedMediaType x415
    │   ├── HeadTooLarge         x431
    │   ├── InternalError        x500
    │   ├── BadStartTime         x400  sessions
    │   ├── UnknownSession       x404
    │   ├── WrongStatus          x409
    │   ├── StaleVersion         x412
    │   ├── TooManySessions      x429
    │   ├── NoPinFree            x503
    │   ├── UnknownParticipant   x404  participants
    │   ├── NoKnocking           x409
    │   ├── TooManyParticipants  x429
    │   ├── KeyReused            x409  idempotency
    │   ├── WrongCode            x400  callers
    │   ├── NotAuthenticated     x401
    │   ├── Forbidden            x403
    │   ├── TooManyAttempts      x429
    │   ├── ChallengeNeeded      x400
    │   ├── TooManyGuesses       x429
    │   ├── UnknownOrganization  x404
    │   ├── UnknownWebhook       x404  webhooks
    │   ├── UpgradeRequired      x426  WebSockets
    │   ├── TooManyWebSockets    x429
    │   ├── WebSocketsFull       x503
    │   ├── InvalidMessage       x400  rooms
    │   ├── WrongRoomKey         x403
    │   ├── WrongResumeKey       x404
    │   ├── OtherPresence        x409
    │   ├── AgentRevoked         x403  agents
    │   ├── AgentShutOut         x401
    │   ├── UnknownAgent         x404
    │   ├── BatchRefused         x400  batches
    │   ├── BatchConflict        x409
    │   ├── SeriesConfigured     x403  series
    │   ├── UnknownSeries        x404
    │   ├── SeriesEnded          x409
    │   ├── StaleSeries          x412
    │   ├── TooManySeries        x429
    │   ├── TooManyMails         x429  mail
    │   ├── UnknownCalendar      x404  calendars
    │   ├── Overlap              x409
    │   ├── BadClockMove         x400  the test clock
    │   ├── NoTestClock          x409
    │   ├── Overloaded           x503  the daemon
    │   ├── StoreUnavailable     x503
    │   ├── Draining             x503
    │   └── Starting             x503
    └── StartupError                   the daemon logs one line and exits with code 1
        ├── StateDirectoryUnusable
        ├── AlreadyRunning
        ├── CannotListen
        ├── CannotOpenDatabase
        ├── DatabaseCorrupt
        ├── DatabaseTooNew
        ├── WrongClock
        ├── CannotBackUp
        ├── CannotCompact
        └── CannotRestore

A class's docstring says what the error means, for the reference in `docs/api.md`; `description` is the message of one
case. A refcode is an area followed by the HTTP status that `api` answers with. The areas: 100 requests, 101 sessions,
102 participants, 103 idempotency, 104 callers, 105 load, 106 organizations, 107 the database, 108 stopping,
109 webhooks, 110 starting, 111 WebSockets, 112 rooms, 113 agents, 115 batches, 116 mail, 118 calendars, 119 series,
120 the test clock, 169 challenges (the number of the original product). Refcodes are stable: clients switch on them.
`config.ConfigError`, which lists the problems of a configuration, is the third kind of `TminusError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import ClassVar, NamedTuple

from tminus.domain import timestamps
from tminus.domain.types import Status


def printable(path: object) -> str:
    """Return a path as text that can be encoded as UTF-8: other bytes, which log lines cannot have, are escaped."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


class TminusError(Exception):
    """Base class of all errors that tminus raises."""

    @property
    def description(self) -> str:
        """One sentence: what is wrong, and what would be right. It never contains a secret."""
        raise NotImplementedError  # pragma: no cover - each leaf class defines it

    def __str__(self) -> str:
        return self.description


class FieldError(NamedTuple):
    """One error in one field of a request."""

    field: str
    message: str


MAX_FIELD_ERRORS = 20
"""Maximum number of field errors that one answer lists."""

MAX_BATCH_ERRORS = 1000
"""Maximum number of errors that the answer to a batch lists."""

_MAX_DESCRIBED = 3
"""Maximum number of errors that the description of a refused batch repeats."""


def _cut(text: str, length: int = 80) -> str:
    """Return a caller's text, cut to a length that an answer may repeat."""
    return text if len(text) <= length else f"{text[:length]}…"


class RequestError(TminusError):
    """The daemon refuses a request and answers with the reason."""

    refcode: ClassVar[int]
    retry_after: float | None = None
    """Seconds after which the same request may succeed; None also if it never can."""
    errors: Sequence[FieldError] = ()

    @property
    def log_text(self) -> str:
        """The description for the log: without text of the caller, which may be a secret in the wrong place."""
        return self.description


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class InvalidRequest(RequestError):
    """The request has invalid fields; `errors` lists all of them, up to 20."""

    refcode = 100400
    errors: Sequence[FieldError]

    def __post_init__(self) -> None:
        # The caller chooses the number of wrong fields and their names. An answer that repeated them all could be many
        # times as long as the request.
        found = len(self.errors)
        listed = self.errors[:MAX_FIELD_ERRORS]
        self.errors = [FieldError(_cut(error.field), _cut(error.message, 300)) for error in listed]
        if found > MAX_FIELD_ERRORS:
            self.errors.append(FieldError("errors", f"lists {MAX_FIELD_ERRORS} of {found} errors"))

    @property
    def description(self) -> str:
        return "Invalid request: " + "; ".join(f"{error.field} {error.message}" for error in self.errors)

    @property
    def log_text(self) -> str:
        return "Invalid request: the answer names the wrong fields"


class CrossSite(RequestError):
    """A browser sent the request for a page of another site, which is not in `server.cors_origins`."""

    refcode = 100403

    @property
    def description(self) -> str:
        return "A web page of another site sent this request, and its origin is not in server.cors_origins"


class UnknownPath(RequestError):
    """The API has no such path."""

    refcode = 100404

    @property
    def description(self) -> str:
        return "No such path: /openapi.json lists all paths"


@dataclass(eq=False)
class MethodNotAllowed(RequestError):
    """The path does not support this method."""

    refcode = 100405
    method: str

    @property
    def description(self) -> str:
        return f"This path does not support the method {_cut(self.method)}: see the Allow header"


class RequestTimeout(RequestError):
    """The request's body did not arrive in time."""

    refcode = 100408

    @property
    def description(self) -> str:
        return "The request's body did not arrive in time"


@dataclass(eq=False)
class BodyTooLarge(RequestError):
    """The request's body is larger than `server.max_body`, or that of a batch than `server.max_batch_body`."""

    refcode = 100413
    limit: int

    @property
    def description(self) -> str:
        return f"The body is larger than {self.limit} bytes"


@dataclass(eq=False)
class UnsupportedMediaType(RequestError):
    """The body's media type is not JSON, or the body is compressed."""

    refcode = 100415
    problem: str

    @property
    def description(self) -> str:
        return f"The body {self.problem}"


@dataclass(eq=False)
class HeadTooLarge(RequestError):
    """The request's head has too many bytes or too many fields."""

    refcode = 100431
    size: int
    fields: int

    @property
    def description(self) -> str:
        return f"The request's head has more than {self.size} bytes, or more than {self.fields} fields"


@dataclass(eq=False)
class InternalError(RequestError):
    """An internal error; the log has the details, under the request id."""

    refcode = 100500
    request_id: str

    @property
    def description(self) -> str:
        return f"Internal error: the log has the details under request id {self.request_id}"


# --- sessions ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BadStartTime(RequestError):
    """The start time is in the past, or beyond `lifecycle.horizon`."""

    refcode = 101400
    start_time: datetime
    problem: str

    @property
    def errors(self) -> Sequence[FieldError]:  # type: ignore[override]  # a property where the base has a plain default
        return (FieldError("startTime", self.problem),)

    @property
    def description(self) -> str:
        return f"startTime {timestamps.text(self.start_time)} {self.problem}"


@dataclass(eq=False)
class UnknownSession(RequestError):
    """No session has this id or PIN."""

    refcode = 101404
    key: str

    @property
    def description(self) -> str:
        return f"Session not found {_cut(self.key)}"

    @property
    def log_text(self) -> str:
        return "Session not found"


@dataclass(eq=False)
class WrongStatus(RequestError):
    """The session's status does not allow this; the description names the status."""

    refcode = 101409
    trigger: str
    status: str

    @property
    def description(self) -> str:
        cannot = f"Cannot {self.trigger} while the session's status is {self.status}"
        return f"{cannot}: it is {_MEANING[self.status]}" if self.status in _MEANING else cannot


_MEANING = {status.value: "already open" for status in Status} | {"scheduled": "not open yet", "closed": "closed"}


@dataclass(eq=False)
class StaleVersion(RequestError):
    """The session has changed since the version that `If-Match` names."""

    refcode = 101412
    version: int

    @property
    def description(self) -> str:
        return f'The session is at version "{self.version}" now, which If-Match does not name: get the session again'


@dataclass(eq=False)
class TooManySessions(RequestError):
    """The agent has as many open sessions as `limits.sessions_per_agent` allows."""

    refcode = 101429
    limit: int
    wanted: int = 1
    """Number of sessions that the request would create."""

    def __post_init__(self) -> None:
        self.retry_after = None if self.wanted > self.limit else 60.0

    @property
    def description(self) -> str:
        if self.wanted > self.limit:
            most = f"at most {self.limit} open (limits.sessions_per_agent)"
            return f"These are {self.wanted} sessions, and one agent may have {most}: send fewer"
        most = "the maximum for one agent (limits.sessions_per_agent): close some first"
        if self.wanted > 1:
            return f"You would have more than {self.limit} open sessions, {most}"
        return f"You have {self.limit} open sessions, {most}"


class NoPinFree(RequestError):
    """Open sessions use all PINs; nothing was created."""

    refcode = 101503
    retry_after = 60.0

    @property
    def description(self) -> str:
        return "All PINs are in use: one becomes free when a session closes"


# --- participants -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class UnknownParticipant(RequestError):
    """No participant with this id has joined the session or knocked."""

    refcode = 102404
    participant_id: str

    @property
    def description(self) -> str:
        return f"Participant not found {_cut(self.participant_id)}"

    @property
    def log_text(self) -> str:
        return "Participant not found"


@dataclass(eq=False)
class NoKnocking(RequestError):
    """The session's `knock` is off, or the participant is not waiting to be admitted."""

    refcode = 102409
    problem: str

    @property
    def description(self) -> str:
        return self.problem


@dataclass(eq=False)
class TooManyParticipants(RequestError):
    """The session has reached a limit: `limits.participants_per_session`, or 10,000 participants in its lifetime."""

    refcode = 102429
    limit: int
    at_once: bool

    def __post_init__(self) -> None:
        self.retry_after = 60.0 if self.at_once else None

    @property
    def description(self) -> str:
        if self.at_once:
            return f"The session has {self.limit} participants, the maximum at once (limits.participants_per_session)"
        return f"The session has had {self.limit} participants, the maximum for one session: create another session"


# --- rooms ------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class InvalidMessage(RequestError):
    """A message to a room is malformed, or not allowed in the present state of the connection."""

    refcode = 112400
    problem: str

    @property
    def description(self) -> str:
        return f"The message {_cut(self.problem, 300)}"


class WrongRoomKey(RequestError):
    """The host key is not the one of this session."""

    refcode = 112403

    @property
    def description(self) -> str:
        return "The host key is not valid for this session"


class WrongResumeKey(RequestError):
    """The resume key is unknown, or belongs to another session or to somebody who has left."""

    refcode = 112404

    @property
    def description(self) -> str:
        return "The resume key is not valid any more: join without it"


@dataclass(eq=False)
class OtherPresence(RequestError):
    """Another system, or the daemon's own room, already reports who is in the session."""

    refcode = 112409
    own: bool
    """Whether the people are in the daemon's own room."""

    @property
    def description(self) -> str:
        if self.own:
            return "The people of this session are in the daemon's own room, which reports them"
        return "Another system reports the people of this session: join there"


# --- agents -----------------------------------------------------------------------------------------------------------


class AgentRevoked(RequestError):
    """The agent of the session may not act any more, so nobody can be its host."""

    refcode = 113403

    @property
    def description(self) -> str:
        return "The agent of this session was removed, or has no valid token: nobody can be its host"


@dataclass(eq=False)
class AgentShutOut(RequestError):
    """An operator has shut the agent out."""

    refcode = 113401
    agent_id: int

    @property
    def description(self) -> str:
        return f"Agent {self.agent_id} is shut out: contact your administrator"


@dataclass(eq=False)
class UnknownAgent(RequestError):
    """Neither the configuration nor the database has an agent with this number."""

    refcode = 113404
    agent_id: int

    @property
    def description(self) -> str:
        return f"There is no agent {self.agent_id}"


# --- batches ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BatchRefused(RequestError):
    """Items of the batch are not valid, and nothing was done; `errors` lists all of them by index, up to 1,000."""

    refcode = 115400
    errors: Sequence[FieldError]
    found: int = 0
    """The number of all errors, if `errors` has only the first of them."""

    def __post_init__(self) -> None:
        self.found = max(self.found, len(self.errors))
        self.errors = _errors_of_items(self.errors, self.found)

    @property
    def description(self) -> str:
        return _nothing_done(self.errors, self.found)

    @property
    def log_text(self) -> str:
        return "Nothing was done: the answer names the wrong sessions"


@dataclass(eq=False)
class BatchConflict(RequestError):
    """Sessions of the batch are unknown, not yours, in the wrong status, or would overlap; nothing was done."""

    refcode = 115409
    errors: Sequence[FieldError]
    found: int = field(init=False)
    """The number of all errors."""

    def __post_init__(self) -> None:
        self.found = len(self.errors)
        self.errors = _errors_of_items(self.errors, self.found)

    @property
    def description(self) -> str:
        return _nothing_done(self.errors, self.found)

    @property
    def log_text(self) -> str:
        return "Nothing was done: the answer names the wrong sessions"


def _errors_of_items(errors: Sequence[FieldError], found: int) -> Sequence[FieldError]:
    """Return the errors that an answer lists, and a last one that gives their number if there are more."""
    listed = [FieldError(_cut(error.field), _cut(error.message, 300)) for error in errors[:MAX_BATCH_ERRORS]]
    if found > len(listed):
        listed.append(FieldError("errors", f"lists {len(listed)} of {found} errors"))
    return listed


def _nothing_done(errors: Sequence[FieldError], found: int) -> str:
    first = "; ".join(f"{error.field} {error.message}" for error in errors[:_MAX_DESCRIBED])
    more = found - _MAX_DESCRIBED
    return f"Nothing was done: {first}{f'; and {more} more' if more > 0 else ''}"


# --- idempotency ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class KeyReused(RequestError):
    """The `Idempotency-Key` was used before with another body; the description names what it created."""

    refcode = 103409
    session_id: str
    """The session; for a batch the first one, or "" if the batch had none."""
    batch: bool = False
    """Whether it was used for a batch."""
    series: bool = False
    """Whether it was used for a series, whose id is `session_id`."""

    @property
    def description(self) -> str:
        if not self.session_id:
            return "This Idempotency-Key was used for a batch of no session with another body: use a new key"
        made = "created series" if self.series else "created session"
        done = "was used for the batch of session" if self.batch else made
        return f"This Idempotency-Key {done} {self.session_id} from another body: use a new key"


# --- callers ----------------------------------------------------------------------------------------------------------


class WrongCode(RequestError):
    """The sign-in code is unknown, used, expired or revoked, or belongs to another provider, instance or receiver."""

    refcode = 104400

    @property
    def description(self) -> str:
        return "No valid code: a code works once, within 60 s, for the page that got it; sign in again"


@dataclass(eq=False)
class NotAuthenticated(RequestError):
    """The request has no token, or its token is unknown, expired or revoked."""

    was_sent: bool = False
    """Whether the request had a token. Then the caller needs another token, not another header."""

    refcode = 104401

    @property
    def description(self) -> str:
        if self.was_sent:
            return "No valid token: the token that was sent is unknown, expired or revoked"
        return "No token: send one in the header Session-id or Authorization: Bearer"


@dataclass(eq=False)
class Forbidden(RequestError):
    """The caller is authenticated but may not do this."""

    refcode = 104403
    needs: str

    @property
    def description(self) -> str:
        return f"Not allowed: this needs {self.needs}"


@dataclass(eq=False)
class TooManyAttempts(RequestError):
    """One address sent too many wrong tokens, codes or session ids (`limits`)."""

    refcode = 104429
    what: str
    retry_after: float = 60.0

    @property
    def description(self) -> str:
        return f"Too many {self.what} from your address: try again in {ceil(self.retry_after)} s"


@dataclass(eq=False)
class ChallengeNeeded(RequestError):
    """One address sent too many wrong PINs (`limits.pin_lookups`), or its answer to a challenge is not valid."""

    refcode = 169400
    retry_after: float = 60.0
    problem: str = ""
    """What is wrong with the answer; empty if the request had none."""

    @property
    def description(self) -> str:
        wait = f"answer a new challenge (GET /v3/support/challenge), or try again in {ceil(self.retry_after)} s"
        if self.problem:
            return f"The answer {self.problem}: {wait}"
        return f"Too many wrong PINs from your address: {wait}"


@dataclass(eq=False)
class TooManyGuesses(RequestError):
    """Too many wrong PINs with answers to challenges, from one address or from all (`limits.challenge_guesses…`)."""

    refcode = 169429
    retry_after: float = 60.0

    @property
    def description(self) -> str:
        return f"Too many wrong PINs, also with answers to challenges: try again in {ceil(self.retry_after)} s"


@dataclass(eq=False)
class UnknownOrganization(RequestError):
    """This daemon serves another organization."""

    refcode = 106404
    organization_id: int

    @property
    def description(self) -> str:
        return f"Organization not found {self.organization_id}"


# --- webhooks ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class UnknownWebhook(RequestError):
    """The configuration has no webhook of this name."""

    refcode = 109404
    name: str

    @property
    def description(self) -> str:
        return f"Webhook not found {_cut(self.name)}"

    @property
    def log_text(self) -> str:
        return "Webhook not found"


# --- WebSockets -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class UpgradeRequired(RequestError):
    """The path is a WebSocket, and the request is no valid upgrade to version 13 of the protocol."""

    refcode = 111426
    problem: str

    @property
    def description(self) -> str:
        return f"This path is a WebSocket (RFC 6455, version 13): {self.problem}"


@dataclass(eq=False)
class TooManyWebSockets(RequestError):
    """One address has as many WebSockets as `limits.websockets_per_address` allows."""

    refcode = 111429
    limit: int
    retry_after = 60.0

    @property
    def description(self) -> str:
        return f"Your address has {self.limit} WebSockets, the maximum for one address: close some first"


class WebSocketsFull(RequestError):
    """WebSockets use three quarters of `limits.connections`; the rest is reserved for other requests."""

    refcode = 111503
    retry_after = 60.0

    @property
    def description(self) -> str:
        return "Too many WebSockets are open: try again in a minute"


# --- series -----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class UnknownSeries(RequestError):
    """No series has this id."""

    refcode = 119404
    series_id: str

    @property
    def description(self) -> str:
        return f"Series not found {_cut(self.series_id)}"

    @property
    def log_text(self) -> str:
        return "Series not found"


@dataclass(eq=False)
class SeriesEnded(RequestError):
    """The series has ended, so it cannot be changed."""

    refcode = 119409

    @property
    def description(self) -> str:
        return "The series has ended: create another one"


@dataclass(eq=False)
class StaleSeries(RequestError):
    """The series has changed since the version that `If-Match` names."""

    refcode = 119412
    version: int

    @property
    def description(self) -> str:
        return f'The series is at version "{self.version}" now, which If-Match does not name: get the series again'


@dataclass(eq=False)
class SeriesConfigured(RequestError):
    """The series is an entry of the configuration, so only its single sessions can be changed."""

    refcode = 119403
    entry: str

    @property
    def description(self) -> str:
        return (
            f'The series is the entry "{_cut(self.entry)}" of [[series]] in the configuration: change it there, and '
            "reload. One of its sessions can be moved or closed"
        )


@dataclass(eq=False)
class TooManySeries(RequestError):
    """The agent has as many series that have not ended as an agent may have."""

    refcode = 119429
    limit: int
    retry_after = 60.0

    @property
    def description(self) -> str:
        return f"You have {self.limit} series that have not ended, which is the maximum: end one first"


# --- mail -------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class TooManyMails(RequestError):
    """The request would cause more mails to invitees than `limits.mails_per_agent` allows."""

    refcode = 116429
    limit: str
    """The limit, such as `5000/hour`."""
    wanted: int
    """Number of mails that the request would cause."""
    left: int
    """Number of mails that the agent may still cause."""
    retry_after: float | None
    """Seconds until the agent may cause more; None if the request exceeds the limit alone."""

    @property
    def description(self) -> str:
        mails = f"This would cause {self.wanted} mail{'s' * (self.wanted != 1)}"
        if self.retry_after is None:
            limit = f"the limit for one agent is {self.limit} (limits.mails_per_agent)"
            return f"{mails}, and {limit}: invite fewer people with one request"
        left = f"{max(0, self.left)} left of {self.limit} for one agent (limits.mails_per_agent)"
        return f"{mails}, with {left}: try again in {ceil(self.retry_after)} s"


# --- calendars --------------------------------------------------------------------------------------------------------


class UnknownCalendar(RequestError):
    """The address of the calendar is wrong or was revoked, or its agent may not act any more."""

    refcode = 118404

    @property
    def description(self) -> str:
        return "There is no calendar at this address: it is wrong, or it was revoked"


@dataclass(eq=False)
class Overlap(RequestError):
    """The agent has another appointment at this time, and `policy.overlap` is `refuse`."""

    refcode = 118409
    other_id: str | None
    """The id of the other session; None if the caller may not see it."""

    @property
    def description(self) -> str:
        other = f"session {self.other_id}" if self.other_id else "another session"
        return f"The agent has {other} at this time, and sessions may not overlap: choose another start"


# --- the test clock ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BadClockMove(RequestError):
    """The test clock cannot go there: it goes forward only, and at most ten years in one move."""

    refcode = 120400
    field: str
    problem: str

    @property
    def errors(self) -> Sequence[FieldError]:  # type: ignore[override]  # a property where the base has a plain default
        return (FieldError(self.field, self.problem),)

    @property
    def description(self) -> str:
        return f"{self.field} {self.problem}"


class NoTestClock(RequestError):
    """The daemon runs on the real clock, which nobody can move."""

    refcode = 120409

    @property
    def description(self) -> str:
        return "The daemon runs on the real clock: only `tminus run --test-clock` has a clock that can be moved"


# --- the daemon -------------------------------------------------------------------------------------------------------


class Overloaded(RequestError):
    """Too many requests are waiting to be served in good time."""

    refcode = 105503
    retry_after = 1.0

    @property
    def description(self) -> str:
        return "Too many requests are waiting: try again in a second"


class StoreUnavailable(RequestError):
    """The database does not answer or cannot be written. If the commit failed, the request may have been executed."""

    refcode = 107503
    retry_after = 2.0

    @property
    def description(self) -> str:
        return "The database is not available: try again, with the same Idempotency-Key"


class Draining(RequestError):
    """The daemon is stopping. The request may have been executed."""

    refcode = 108503
    retry_after = 5.0

    @property
    def description(self) -> str:
        return "The daemon is stopping: try again in a few seconds"


class Starting(RequestError):
    """The daemon has been starting for more than two seconds; `/readyz` shows what it is waiting for."""

    refcode = 110503
    retry_after = 5.0

    @property
    def description(self) -> str:
        return "The daemon is starting: try again in a few seconds"


# --- starting ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class StartupError(TminusError):
    """The daemon cannot start, or a command cannot open a file or database that it needs."""

    subject: str
    problem: str = ""
    transient: bool = False
    """Whether the cause may go away, such as a full disk. The daemon then waits and tries again."""

    @property
    def description(self) -> str:
        return f"{printable(self.subject)}: {self.problem}"


class StateDirectoryUnusable(StartupError):
    """The state directory cannot be created or written."""


class AlreadyRunning(StartupError):
    """Another daemon uses this state directory or this database."""


class CannotListen(StartupError):
    """The daemon cannot listen on the address or the local socket."""


class CannotOpenDatabase(StartupError):
    """The database cannot be reached or opened."""


class DatabaseCorrupt(StartupError):
    """The file is not a database, or it is damaged."""


class DatabaseTooNew(StartupError):
    """A newer version of tminus has written the database; this version does not support its schema."""


class WrongClock(StartupError):
    """The database belongs to a test clock and the daemon uses the real one, or the other way round."""


class CannotBackUp(StartupError):
    """The backup cannot be written."""


class CannotCompact(StartupError):
    """The database file cannot be compacted; nothing was changed."""


class CannotRestore(StartupError):
    """The backup cannot replace the database; nothing was changed."""
