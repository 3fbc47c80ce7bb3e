"""A request as it came in: what the rim has found out before any route sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.types import Scope

from tminus.api.services import Services
from tminus.domain.types import CreateSession
from tminus.storage import Transaction

T = TypeVar("T")


@dataclass(slots=True)
class RequestContext:
    """What the rim leaves in a request's scope, and what routes leave here for its line in the log."""

    services: Services
    request_id: str
    local: bool
    """Whether it came in by the local socket."""
    remote_ip: str
    headers: dict[bytes, bytes]
    """By name in lower case; of a header that was sent twice, the first."""
    scope: Scope = field(default_factory=dict)
    """The request as ASGI has it."""
    query_string: bytes = b""
    """Without parameters that have no value."""
    path_params: dict[str, str] = field(default_factory=dict)
    """The values of the parameters in its path, once its route is known."""
    route: str = "(none)"
    """The template of its path: the path itself may hold a PIN."""
    head: bool = False
    """Whether only the head of the answer is wanted."""
    body: bytes = b""
    actor: str | None = None
    """Who called, once that is known."""
    session_id: str | None = None
    """The session that it is about, where the path does not say so."""
    order: CreateSession | None = None
    """The session that it would create."""
    replayed: bool = False
    """Whether an earlier request with the same `Idempotency-Key` was answered again."""
    said: bool = False
    """Whether a line of the log has said already how it ended."""
    recorded: bool = False
    """Whether it has recorded an event, which is a line of the log."""
    code: int = 0
    """The status of its answer, once that has begun."""
    refcode: int | None = None
    """Why it was refused, if it was."""

    async def write(self, job: Callable[[Transaction], T]) -> T:
        """Have the store's writer run a job, and note whether it records events."""

        def noting(tx: Transaction) -> T:
            before = len(tx.recorded)
            result = job(tx)
            self.recorded = len(tx.recorded) > before
            return result

        return await self.services.transact(noting)

    def header(self, name: bytes) -> str:
        """A header's text, "" if it was not sent."""
        return self.headers.get(name, b"").decode("latin-1")


_KEY = "tminus.context"


def put(scope: Scope, context: RequestContext) -> None:
    scope[_KEY] = context


def context_of(scope: Scope) -> RequestContext:
    context: RequestContext = scope[_KEY]
    return context
