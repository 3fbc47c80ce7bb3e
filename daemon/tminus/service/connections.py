"""Limit the number of open connections, and choose which one to close for a new one."""

import math
import resource
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Protocol

from tminus import clock
from tminus.domain.networks import client_network
from tminus.logs.repeated import REPEATED

RESERVED_FILES = 128
"""Reserved file descriptors: a quarter for listening, a quarter for connections that arrive in one iteration of the
event loop, before others are closed for them, and the rest for the database, webhooks, the local socket and the log.
Without free descriptors the operating system refuses all new connections, also to the local socket.
"""

WEBSOCKET_SHARE = 0.75
"""Share of the connections that may be WebSockets. They are never closed for new connections, so the rest is reserved
for requests.
"""


class Member(Protocol):
    """A connection that is counted."""

    peer: str
    """The client's address."""
    address: str
    """The address or network whose limit it counts for."""

    def evict(self) -> None: ...
    def check(self, now: float) -> None: ...


class OpenConnections:
    """All open connections of a server.

    If there are too many, one is closed for a new one: the one that has waited longest for its client, which is idle,
    is sending a head or a body, or does not read its response. If none waits for its client, the one that has waited
    longest for events is closed. A connection whose request is being processed is never closed, nor is a WebSocket.

    Parameters
    ----------
    most
        Maximum number of open connections; None: no limit.
    most_per_address
        Returns the maximum for one client address; None: no limit.
    """

    def __init__(self, most: int | None, most_per_address: Callable[[str], int | None]) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._open: dict[Member, None] = {}
        self._by_address: dict[str, dict[Member, None]] = {}
        self._waiting: dict[Member, None] = {}
        """Connections that wait for their client, the longest first."""
        self._held: dict[Member, None] = {}
        """Connections whose request waits for events, the longest first."""
        self._websockets: set[Member] = set()
        self._busiest: dict[str, Any] = {}
        self._busiest_until = -math.inf

    def __len__(self) -> int:
        return len(self._open)

    @property
    def websockets(self) -> int:
        """The number of connections that are WebSockets."""
        return len(self._websockets)

    def admit(self, member: Member) -> bool:
        """Add a connection, and close another one for it if needed. Return False if none can be closed."""
        most_per_address = self._most_per_address(member.peer)
        if most_per_address is not None and len(self._by_address.get(member.address, ())) >= most_per_address:
            REPEATED.log("http.crowded", member.address, remote_ip=member.address, connections=most_per_address)
            evicted = self._longest_waiting(self._by_address[member.address])
        elif self._is_full():
            evicted = self._longest_waiting(self._open)
        else:
            self._add(member)
            return True
        if evicted is None:
            REPEATED.log("http.refused", "", connections=len(self), **self._most_from())
            return False
        self.remove(evicted)
        evicted.evict()
        self._add(member)
        return True

    def _longest_waiting(self, among: Mapping[Member, None]) -> Member | None:
        return next((one for one in chain(self._waiting, self._held) if one in among), None)

    def _add(self, member: Member) -> None:
        self._open[member] = None
        self._by_address.setdefault(member.address, {})[member] = None
        self._waiting[member] = None

    def remove(self, member: Member) -> None:
        """Remove a connection that is closed or about to be. Repeated calls have no effect."""
        if self._open.pop(member, self) is self:
            return
        own = self._by_address[member.address]
        del own[member]
        if not own:
            del self._by_address[member.address]
        self._waiting.pop(member, None)
        self._held.pop(member, None)
        self._websockets.discard(member)

    def admit_websocket(self, member: Member) -> bool:
        """Count a connection as a WebSocket from now on. Return False if there are too many."""
        limit = min(self._allowed_by_files(), math.inf if self._most is None else self._most)
        if len(self._websockets) >= limit * WEBSOCKET_SHARE:
            REPEATED.log("websocket.refused", "", connections=len(self._websockets), **self._most_from())
            return False
        self._websockets.add(member)
        return True

    def mark_waiting(self, member: Member) -> None:
        """Note that a connection waits for its client, and is not a WebSocket. The time of the first call counts."""
        self._websockets.discard(member)
        if member in self._open and member not in self._waiting:
            self._held.pop(member, None)
            self._waiting[member] = None

    def mark_working(self, member: Member) -> None:
        """Note that the request of a connection is being processed."""
        self._waiting.pop(member, None)
        self._held.pop(member, None)

    def mark_holding(self, member: Member) -> None:
        """Note that the request of a connection waits for events."""
        if member in self._open and member not in self._held:
            self._waiting.pop(member, None)
            self._held[member] = None

    def sweep(self) -> None:
        """Close the connections whose time-out has passed."""
        now = clock.monotonic()
        for member in tuple(self._open):
            member.check(now)

    def _is_full(self) -> bool:
        """Return whether the limit of connections or of file descriptors is reached."""
        count = len(self._open)
        if count >= (files := self._allowed_by_files()):
            REPEATED.log("http.full", "", connections=count, limit=int(files) + RESERVED_FILES, **self._most_from())
            return True
        if self._most is not None and count >= self._most:
            REPEATED.log("http.at_limit", "", connections=count, **self._most_from())
            return True
        return False

    def _most_from(self) -> dict[str, Any]:
        """Return the address with the most connections, and their number, for the log. They are a second old at most,
        since new connections may arrive faster than the addresses can be compared.
        """
        if (now := clock.monotonic()) >= self._busiest_until and self._by_address:
            address = max(self._by_address, key=lambda one: len(self._by_address[one]))
            self._busiest = {"busiest": address, "busiest_connections": len(self._by_address[address])}
            self._busiest_until = now + 1
        return self._busiest

    def _allowed_by_files(self) -> float:
        """Return how many connections the limit of file descriptors allows."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return math.inf if files == resource.RLIM_INFINITY else max(files - RESERVED_FILES, 1)


def log_malformed(address: str, error: str) -> None:
    """Log a malformed request, at most once a minute for each address."""
    remote_ip = _for_log(address)
    REPEATED.log("http.malformed", remote_ip, remote_ip=remote_ip, error=error)


def log_unread(address: str) -> None:
    """Log a connection that is closed because its client does not read, at most once a minute for each address."""
    remote_ip = _for_log(address)
    REPEATED.log("http.unread", remote_ip, remote_ip=remote_ip)


def _for_log(address: str) -> str:
    return client_network(address) if "." in address else address.partition("%")[0]
