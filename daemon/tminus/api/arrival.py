"""A request as it came in: what the rim has found out before any route sees it."""

from dataclasses import dataclass

from fastapi import Request
from starlette.types import Scope

from tminus.api.services import Services


@dataclass(slots=True)
class Arrival:
    """What the rim leaves in a request's scope, and what routes leave here for its line in the log."""

    services: Services
    request_id: str
    local: bool
    """Whether it came in by the local socket."""
    remote_ip: str
    headers: dict[bytes, bytes]
    """By name in lower case; of a header that was sent twice, the first."""
    head: bool = False
    """Whether only the head of the answer is wanted."""
    body: bytes = b""
    agent: int | None = None
    """Who called, once that is known."""
    refcode: int | None = None
    """Why it was refused, if it was."""

    def header(self, name: bytes) -> str:
        """A header's text, "" if it was not sent."""
        return self.headers.get(name, b"").decode("latin-1")


_KEY = "tminus.arrival"


def put(scope: Scope, arrival: Arrival) -> None:
    scope[_KEY] = arrival


def arrival_of(request: Request) -> Arrival:
    arrival: Arrival = request.scope[_KEY]
    return arrival
