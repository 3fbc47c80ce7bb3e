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

A request that begins to wait for events passes a callback to it; the server calls the callback if the connection ends.
When the wait is over, the request passes None.
"""


class HeldRequest:
    """One request that waits for events."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        """The actor and the address whose limits it counts towards."""
        self.over = False
        """Whether the wait must end: the client disconnected, or a newer request of the caller replaces this one."""
        self._waiter: asyncio.Task[bool] | None = None

    def end_wait(self) -> None:
        """End the wait early, as if its time-out had passed."""
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


class HeldRequests:
    """All requests that wait for events.

    When a caller reaches its limit, the wait of its oldest request ends, and the new request is admitted. Otherwise the
    stale requests of a client that lost its connection would lock the client out.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, dict[HeldRequest, None]] = {}

    @contextmanager
    def register(self, scope: Scope, actor: str | None, remote_ip: str, limits: Limits) -> Iterator[HeldRequest]:
        """Register a request that waits, for the `with` block. Requests at the local socket have no limit."""
        limits_by_key = (
            # By actor, not by secret: one token can start any number of agent sessions.
            (f"actor {actor}", "limits.streams_per_agent", limits.streams_per_agent),
            (f"address {client_network(remote_ip)}", "limits.streams_per_address", limits.streams_per_address),
        )
        held = HeldRequest(tuple(key for key, _, _ in limits_by_key))
        for holder, setting, most in limits_by_key:
            own = self._by_key.setdefault(holder, {})
            if most and len(own) >= most and remote_ip != "local":
                oldest = next(iter(own))
                self._remove(oldest)
                oldest.end_wait()
                REPEATED.log(
                    "feed.crowded", remote_ip, holder, key=setting, actor=actor, remote_ip=remote_ip, limit=most
                )
            self._by_key.setdefault(holder, {})[held] = None
        hold: Callable[[Callable[[], None] | None], None] = scope["state"].get(HOLD, _no_hold)
        hold(held.end_wait)
        try:
            yield held
        finally:
            hold(None)
            self._remove(held)

    def _remove(self, held: HeldRequest) -> None:
        for key in held.keys:
            own = self._by_key.get(key, {})
            own.pop(held, None)
            if not own:
                self._by_key.pop(key, None)


def _no_hold(_end_wait: Callable[[], None] | None) -> None:
    """Do nothing: this server does not track the requests that wait."""
