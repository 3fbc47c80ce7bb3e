"""Transports of the client: over the local socket, or over the network.

The local socket has a transport of its own that imports only `socket`: a command makes one request, and loading httpx
takes longer than that. The local socket needs neither TLS nor a proxy, so wrong settings for them in the environment
cannot prevent a command from reaching the local daemon.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

Body = bytes | Iterable[bytes] | None
"""The body of a request. If it comes in pieces, the headers have its length, and each piece is requested when the one
before it is sent.
"""

Received = Callable[[bytes], object] | None
"""Is called with each part of the body of a response with status 200 as it arrives."""


class Response(NamedTuple):
    """An HTTP response. The names of its headers are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class NoResponse(Exception):
    """There was no response; `str` is the reason in a few words."""

    def __init__(self, reason: str, *, sent: bool, permanent: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent
        """Whether the request may have reached the daemon."""
        self.permanent = permanent
        """Whether another attempt would fail in the same way, as it does for a lack of permission."""


class CannotConnect(Exception):
    """A proxy or certificates that the environment names cannot be used; `str` contains what to change."""


class Transport(Protocol):
    """Sends a request and returns its response. Threads may share it."""

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: Body, wait: float, received: Received = None
    ) -> Response:
        """Send a request. `wait` is the number of seconds that the response may take beyond the transport's time-out.

        Raises `NoResponse`.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...
