"""The context of a request, which middleware, routes and the request log share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.types import Receive, Scope

from tminus.api.fields import NAMES
from tminus.api.services import Services
from tminus.domain.errors import RequestError
from tminus.domain.events import NamedSession
from tminus.storage import Transaction

T = TypeVar("T")
U = TypeVar("U")


@dataclass(slots=True)
class RequestContext:
    """Data of a request. The middleware stores it in the ASGI scope; routes add data for the log line."""

    services: Services
    request_id: str
    local: bool
    """Whether the request came through the local socket."""
    remote_ip: str
    headers: dict[bytes, bytes]
    """Headers by name in lower case; the first of repeated headers counts."""
    scope: Scope = field(default_factory=dict)
    """The ASGI scope."""
    query_string: bytes = b""
    """The query without parameters that have no value."""
    path_params: dict[str, str] = field(default_factory=dict)
    """The values of path parameters, once the route is found."""
    route: str = "(none)"
    """The template of the path, for logs and metrics: the path itself may contain a PIN."""
    head: bool = False
    """Whether the method is HEAD."""
    body: bytes = b""
    receive: Receive | None = None
    """Receives the body, if the endpoint reads it."""
    actor: str | None = None
    """The caller, once it is authenticated."""
    session_id: str | None = None
    """The session of the request, if the path does not contain its id."""
    named: NamedSession | None = None
    """The session that the request was to create or change, for the log line."""
    about: Mapping[str, str | None] = field(default_factory=dict)
    """More fields for the log line of a WebSocket: the session, and the person."""
    replayed: bool = False
    """Whether the response repeats that of an earlier request with the same `Idempotency-Key`."""
    logged: bool = False
    """Whether the log already has a line with the outcome of the request."""
    recorded: bool = False
    """Whether the request recorded an event, which has its own log line."""
    code: int = 0
    """The status of the response, once it has started; before, 0."""
    refcode: int | None = None
    """The refcode of the error, if the request was refused."""
    error: str | None = None
    """The description of the error for the log."""

    async def write(self, job: Callable[[Transaction], T], session_id: str | None = None, *, large: bool = False) -> T:
        """Run a job on the store's writer, and set `recorded` if a job writes: each of its writes has an event.

        If it refuses and has read the session `session_id`, the log line names this session.

        `session_id`: the session that the job will read, if it is known; `large`: whether it writes many rows.
        """
        return await self.services.transact(self._noted(job, session_id), session_id, large=large)

    async def write_then(
        self, job: Callable[[Transaction], T], then: Callable[[T], U], session_id: str | None = None
    ) -> U:
        """Run a job as `write` does; return what `then` returns for its result. `then` runs on the writer's thread."""
        return await self.services.transact_then(self._noted(job, session_id), then, session_id)

    def _noted(self, job: Callable[[Transaction], T], session_id: str | None) -> Callable[[Transaction], T]:
        def run_and_note(tx: Transaction) -> T:
            before, tx.loaded = tx.writes, None
            try:
                result = job(tx)
            except RequestError:
                if tx.loaded is not None and tx.loaded.id == session_id:
                    self.named, self.session_id = tx.loaded, session_id
                raise
            self.recorded |= tx.writes > before
            return result

        return run_and_note

    def refuse(self, refusal: RequestError) -> None:
        """Record for the log that the request is refused. The error itself is not kept: it refers to this object."""
        self.refcode, self.error = refusal.refcode, refusal.log_text
        # Only names of the API: another one is text of the caller, which may be a secret in the wrong place.
        if known := [one.field for one in refusal.errors if _is_known(one.field)]:
            self.error += f" ({', '.join(known[:_NAMED])}{', …' if len(known) > _NAMED else ''})"

    def header(self, name: bytes) -> str:
        """Return the text of a header, or "" if the request does not have it."""
        return self.headers.get(name, b"").decode("latin-1")


_NAMED = 5
"""Maximum number of wrong fields that the log names."""

_INDEX_DIGITS = 5
"""Maximum number of digits of a position in a list. A PIN has more."""


def _is_known(field: str) -> bool:
    """Return whether a field is one of the API, such as `sessions.3.startTime`."""
    return all(part in NAMES or (part.isdigit() and len(part) <= _INDEX_DIGITS) for part in field.split("."))


_KEY = "tminus.context"


def put(scope: Scope, context: RequestContext) -> None:
    scope[_KEY] = context


def context_of(scope: Scope) -> RequestContext:
    context: RequestContext = scope[_KEY]
    return context
