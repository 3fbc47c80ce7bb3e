"""Requests that wait for events, streams and long polls: how many each caller may have."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Scope

from tminus.config import Limits
from tminus.domain.networks import client_network
from tminus.logs.repeated import REPEATED

HOLD = "tminus.hold"
"""Under this key of a scope's state the server leaves a function to be called when the request begins to wait for
events, with what is to be called if the connection ends meanwhile; and with None when it waits no longer.
"""


class Waiting:
    """One request that waits for events."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        """Whose shares it counts for."""
        self.over = False
        """Whether it must end: its client is gone, or it gave way to another of the same caller."""
        self._waiter: asyncio.Task[bool] | None = None

    def let_go(self) -> None:
        """Have it end, as if its time were over."""
        self.over = True
        if self._waiter is not None:
            self._waiter.cancel()

    async def wait(self, notification: asyncio.Event, seconds: float) -> bool:
        """Wait for the notification for at most so many seconds; return whether there was one."""
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
    """All requests that wait for events. When a caller has as many as it may, the oldest of them ends for one more: a
    client that was cut off must not be kept out by what it has left behind.
    """

    def __init__(self) -> None:
        self._places: dict[str, dict[Waiting, None]] = {}

    @contextmanager
    def place(self, scope: Scope, actor: str | None, remote_ip: str, limits: Limits) -> Iterator[Waiting]:
        """Count a request for as long as it waits. Those at the local socket are not counted."""
        shares = (
            # Not by token: whoever has one gets any number of agent sessions for it.
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
    """Whoever serves it does not ask which requests wait."""
