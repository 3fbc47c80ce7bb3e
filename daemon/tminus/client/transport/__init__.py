"""How the client's requests travel: over the local socket, or over the network.

The local socket has a transport of its own, which loads nothing but `socket`: the command is started for one request,
and loading httpx takes longer than the request. The local socket needs neither TLS nor a proxy, so what the environment
says about them cannot keep a command from the daemon beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Names of headers are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class NoAnswer(Exception):
    """No answer came; `str` is the reason in a few words."""

    def __init__(self, reason: str, *, sent: bool, lasting: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent
        """Whether the request may have reached the daemon."""
        self.lasting = lasting
        """Whether another try would meet the same: permissions do not change by waiting."""


class CannotConnect(Exception):
    """The surroundings do not allow a connection; `str` says what to change."""


class Transport(Protocol):
    """Sends one request and returns its answer. Safe to share between threads."""

    def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, wait: float) -> Answer:
        """Send a request; `wait` is the seconds that an answer may take beyond the usual.

        Raises `NoAnswer`.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...
