"""Limit how many requests of a caller wait for events (streams and long polls)."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Scope

from tminus.config import Limits
from tminus.domain.networks import client_network
from tminus.logs.repeated import REPEATED

HOLD = "tminus.hold"
"""Key in the state of an ASGI scope. Its value is a function of the HTTP server.

A request that begins to wait for events calls it with a callback, which the server calls if the connection ends. When
the wait is over, the request calls it with None.
"""


class Waiting:
    """One request that waits for events."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        """The actor and the address whose limits it counts towards."""
        self.over = False
        """Whether it must end: its client has disconnected, or a newer request of the caller replaces it."""
        self._waiter: asyncio.Task[bool] | None = None

    def let_go(self) -> None:
        """End the wait as if its time-out had passed."""
        self.over = True
        if self._waiter is not None:
            self._waiter.cancel()

    async def wait(self, notification: asyncio.Event, seconds: float) -> bool:
        """Wait for the notification for at most `seconds`; return whether it came."""
        if self.over:
            return False
        self._waiter = asyncio.ensure_future(notification.wait())
        try:
            await asyncio.wait({self._waiter}, timeout=seconds)
            return notification.is_set()
        finally:
            self._waiter.cancel()
            self._waiter = None


class Held:
    """All requests that wait for events.

    When a caller reaches its limit, the oldest of its requests ends and the new one is admitted. Otherwise the stale
    requests of a client that lost its connection would lock it out.
    """

    def __init__(self) -> None:
        self._places: dict[str, dict[Waiting, None]] = {}

    @contextmanager
    def place(self, scope: Scope, actor: str | None, remote_ip: str, limits: Limits) -> Iterator[Waiting]:
        """Count a request while it waits. Requests at the local socket have no limit."""
        shares = (
            # By actor, not by secret: one token can start any number of agent sessions.
            (f"actor {actor}", limits.streams_per_agent),
            (f"address {client_network(remote_ip)}", limits.streams_per_address),
        )
        place = Waiting(tuple(key for key, _ in shares))
        for key, most in shares:
            own = self._places.setdefault(key, {})
            if most and len(own) >= most and remote_ip != "local":
                oldest = next(iter(own))
                self._remove(oldest)
                oldest.let_go()
                REPEATED.log("feed.crowded", remote_ip, key, actor=actor, remote_ip=remote_ip, limit=most)
            self._places.setdefault(key, {})[place] = None
        hold: Callable[[Callable[[], None] | None], None] = scope["state"].get(HOLD, _nobody)
        hold(place.let_go)
        try:
            yield place
        finally:
            hold(None)
            self._remove(place)

    def _remove(self, place: Waiting) -> None:
        for key in place.keys:
            own = self._places.get(key, {})
            own.pop(place, None)
            if not own:
                self._places.pop(key, None)


def _nobody(_let_go: Callable[[], None] | None) -> None:
    """Do nothing: this server does not track the requests that wait."""
