"""Everything that can go wrong, one class a cause.

::

    TminusError
    ├── RequestError                   a caller is told: refcode, description
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
    │   ├── KeyReused            x409  retries
    │   ├── NotAuthenticated     x401  callers
    │   ├── Forbidden            x403
    │   ├── TooManyAttempts      x429
    │   ├── UnknownOrganization  x404
    │   ├── UnknownWebhook       x404  webhooks
    │   ├── Overloaded           x503  the daemon
    │   ├── StoreUnavailable     x503
    │   ├── Draining             x503
    │   └── Starting             x503
    └── StartupError                   the daemon does not start: one line, exit code 1
        ├── StateDirectoryUnusable
        ├── AlreadyRunning
        ├── CannotListen
        ├── CannotOpenDatabase
        ├── DatabaseCorrupt
        ├── DatabaseTooNew
        ├── CannotBackUp
        ├── CannotCompact
        └── CannotRestore

A class's docstring is what it means, for the reference; `description` is what it says, for one case. A refcode is an
area followed by the HTTP status that `api` answers with. The areas: 100 requests, 101 sessions, 102 participants,
103 retries, 104 callers, 105 load, 106 organizations, 107 the database, 108 stopping, 109 webhooks, 110 starting.
Refcodes are stable: clients switch on them. (`config.ConfigError`, which lists what is wrong with a file, is the third
kind of `TminusError`.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import ClassVar

from tminus.domain import timestamps


def printable(path: object) -> str:
    """Return a path as text. One that is not UTF-8 is shown by its bytes: no log line takes it as it is."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


class TminusError(Exception):
    """Whatever tminus itself raises."""

    @property
    def description(self) -> str:
        """One sentence: what was wrong, and what would be right. Never a secret."""
        raise NotImplementedError  # pragma: no cover - every leaf says its own

    def __str__(self) -> str:
        return self.description


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field of a request."""

    field: str
    message: str


MAX_FIELD_ERRORS = 20
"""How many faults of one request an answer lists."""


def _cut(text: str, length: int = 80) -> str:
    """Text of the caller's, short enough to be repeated in an answer."""
    return text if len(text) <= length else f"{text[:length]}…"


class RequestError(TminusError):
    """A request that is not done; the caller is told why."""

    refcode: ClassVar[int]
    retry_after: float | None = None
    """Seconds after which the same request may succeed."""
    errors: Sequence[FieldError] = ()


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class InvalidRequest(RequestError):
    """The request's shape is wrong; `errors` lists every fault at once, the first 20 if there are more."""

    refcode = 100400
    errors: Sequence[FieldError]

    def __post_init__(self) -> None:
        # The caller chooses how many faults there are and what their fields are called: an answer that repeats it all
        # would be many times as long as the request.
        found = len(self.errors)
        self.errors = [
            FieldError(_cut(fault.field), _cut(fault.message, 300)) for fault in self.errors[:MAX_FIELD_ERRORS]
        ]
        if found > MAX_FIELD_ERRORS:
            self.errors.append(FieldError("errors", f"lists {MAX_FIELD_ERRORS} of {found} faults"))

    @property
    def description(self) -> str:
        return "Invalid request: " + "; ".join(f"{fault.field} {fault.message}" for fault in self.errors)


class CrossSite(RequestError):
    """A browser asks on behalf of a page of another site that is not in `server.cors_origins`."""

    refcode = 100403

    @property
    def description(self) -> str:
        return "A web page of another site asks for this, and its origin is not in server.cors_origins"


class UnknownPath(RequestError):
    """No call has this path."""

    refcode = 100404

    @property
    def description(self) -> str:
        return "No such path: /openapi.json lists those that there are"


@dataclass(eq=False)
class MethodNotAllowed(RequestError):
    """The path has no such method."""

    refcode = 100405
    method: str

    @property
    def description(self) -> str:
        return f"Method {_cut(self.method)} is not for this path: see the Allow header"


class RequestTimeout(RequestError):
    """The request's body did not arrive in time."""

    refcode = 100408

    @property
    def description(self) -> str:
        return "The request's body did not arrive in time"


@dataclass(eq=False)
class BodyTooLarge(RequestError):
    """The request's body is larger than `server.max_body`."""

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
    """A defect of tminus; the log has the request id and the details."""

    refcode = 100500
    request_id: str

    @property
    def description(self) -> str:
        return f"Internal error: the log tells more under request {self.request_id}"


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


@dataclass(eq=False)
class WrongStatus(RequestError):
    """The session's status does not allow this; the description names the status."""

    refcode = 101409
    trigger: str
    status: str

    @property
    def description(self) -> str:
        return f"Cannot {self.trigger} while the session's status is {self.status}"


@dataclass(eq=False)
class StaleVersion(RequestError):
    """The session has changed since the version named in `If-Match`."""

    refcode = 101412
    version: int

    @property
    def description(self) -> str:
        return f'The session is at version "{self.version}" now, which If-Match does not name: read it again'


@dataclass(eq=False)
class TooManySessions(RequestError):
    """The agent has as many open sessions as `limits.sessions_per_agent` allows."""

    refcode = 101429
    limit: int
    retry_after = 60.0

    @property
    def description(self) -> str:
        return f"You have {self.limit} open sessions, the most an agent may have: close some first"


class NoPinFree(RequestError):
    """Every PIN is in use by an open session; nothing was created."""

    refcode = 101503
    retry_after = 60.0

    @property
    def description(self) -> str:
        return "Every PIN is in use: one is free again when a session closes"


@dataclass(eq=False)
class UnknownParticipant(RequestError):
    """Nobody with this id ever joined the session, or knocked."""

    refcode = 102404
    participant_id: str

    @property
    def description(self) -> str:
        return f"Participant not found {_cut(self.participant_id)}"


@dataclass(eq=False)
class NoKnocking(RequestError):
    """The session's `knock` is off, or the participant does not wait to be let in."""

    refcode = 102409
    problem: str

    @property
    def description(self) -> str:
        return self.problem


@dataclass(eq=False)
class TooManyParticipants(RequestError):
    """The session has as many participants as it may have: 1,000 in it at once, 10,000 in its life."""

    refcode = 102429
    limit: int
    at_once: bool
    retry_after = 60.0

    @property
    def description(self) -> str:
        if self.at_once:
            return f"The session has {self.limit} participants, the most that may be in it at once"
        return f"The session has had {self.limit} participants, the most that one may have: make another session"


@dataclass(eq=False)
class KeyReused(RequestError):
    """The `Idempotency-Key` was used before with another body; the description names the session that it made."""

    refcode = 103409
    session_id: str

    @property
    def description(self) -> str:
        return f"This Idempotency-Key made session {self.session_id} from another body: use a new key"


# --- callers ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class NotAuthenticated(RequestError):
    """No token, or one that is unknown, expired or revoked."""

    was_sent: bool = False
    """Whether there was one: then another is needed, not another place for it."""

    refcode = 104401

    @property
    def description(self) -> str:
        if self.was_sent:
            return "No valid token: the one that was sent is unknown, has expired or was revoked"
        return "No token: send one as Session-id, or as Authorization: Bearer"


@dataclass(eq=False)
class Forbidden(RequestError):
    """The caller is known, and may not do this."""

    refcode = 104403
    needs: str

    @property
    def description(self) -> str:
        return f"Not allowed: this needs {self.needs}"


@dataclass(eq=False)
class TooManyAttempts(RequestError):
    """Too many wrong tokens, or PIN look-ups, from one address (`limits`)."""

    refcode = 104429
    what: str
    retry_after: float = 60.0

    @property
    def description(self) -> str:
        return f"Too many {self.what} from your address: try again in {ceil(self.retry_after)} s"


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


# --- the daemon -------------------------------------------------------------------------------------------------------


class Overloaded(RequestError):
    """More requests are waiting than can be served in good time."""

    refcode = 105503
    retry_after = 1.0

    @property
    def description(self) -> str:
        return "Too many requests are waiting: try again in a second"


class StoreUnavailable(RequestError):
    """The database does not answer, or cannot write. If it was lost at a commit, that may be done."""

    refcode = 107503
    retry_after = 2.0

    @property
    def description(self) -> str:
        return "The database is not available: try again, with the same Idempotency-Key"


class Draining(RequestError):
    """The daemon is stopping. What it had begun may be done."""

    refcode = 108503
    retry_after = 5.0

    @property
    def description(self) -> str:
        return "The daemon is stopping: try again in a few seconds"


class Starting(RequestError):
    """The daemon has been starting for more than two seconds; `/readyz` says what it is doing."""

    refcode = 110503
    retry_after = 5.0

    @property
    def description(self) -> str:
        return "The daemon is starting: try again in a few seconds"


# --- starting ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class StartupError(TminusError):
    """The daemon cannot start, or a command cannot open what it needs."""

    subject: str
    problem: str = ""
    transient: bool = False
    """Whether it ends by itself, as a disk that is full does: the daemon waits for that."""

    @property
    def description(self) -> str:
        return f"{printable(self.subject)}: {self.problem}"


class StateDirectoryUnusable(StartupError):
    """The state directory cannot be made or written."""


class AlreadyRunning(StartupError):
    """Another daemon works in this state directory, or on this database."""


class CannotListen(StartupError):
    """The address or the local socket cannot be listened on."""


class CannotOpenDatabase(StartupError):
    """The database cannot be reached or opened."""


class DatabaseCorrupt(StartupError):
    """The file is not a database, or a damaged one."""


class DatabaseTooNew(StartupError):
    """A newer tminus has written the database; this one does not know its schema."""


class CannotBackUp(StartupError):
    """A backup cannot be written as it was asked for."""


class CannotCompact(StartupError):
    """The database's file cannot be made smaller; nothing was changed."""


class CannotRestore(StartupError):
    """A backup cannot be put in the database's place; nothing was changed."""
