"""A cache for what is fetched from the issuer: the discovery document and the keys."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from tminus import clock
from tminus.oidc.errors import SignInRefused

FRESH = 3600.0
"""Seconds for which a copy is used before it is fetched again."""

STALE = 24 * 3600.0
"""Seconds for which an older copy is used while the issuer does not answer."""

FAILURE_INTERVAL = 5.0
"""Seconds after a failure within which nothing is fetched again. Otherwise each sign-in would wait for a timeout."""

REFRESH_INTERVAL = 60.0
"""Minimum seconds between two calls of `refresh` that fetch."""

T = TypeVar("T")


class Cached(Generic[T]):
    """One cached value. Callers at the same time share a request."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._source = ""
        self._value: tuple[float, T] | None = None
        self._failure: tuple[float, SignInRefused] | None = None
        self._refreshed: float | None = None

    async def get(self, source: str, fetch: Callable[[str], Awaitable[T]]) -> tuple[T, bool]:
        """Return the value of a URL, and whether it has just been fetched. Raises `SignInRefused`."""
        async with self._lock:
            if source != self._source:
                self._source, self._value, self._failure = source, None, None
            value, now = self._value, clock.monotonic()
            if value is not None and now - value[0] < FRESH:
                return value[1], False
            if self._failure is None or now - self._failure[0] >= FAILURE_INTERVAL:
                with suppress(SignInRefused):  # `_fetch` stores it in `_failure`
                    return await self._fetch(fetch), True
            if value is not None and now - value[0] < STALE:
                return value[1], False
            assert self._failure is not None, "otherwise a value was returned"
            # A new exception: one that is raised again and again keeps the frames of all requests in memory.
            raise SignInRefused(self._failure[1].refusal, self._failure[1].detail)

    async def refresh(self, source: str, fetch: Callable[[str], Awaitable[T]]) -> T | None:
        """Fetch the value again, because the copy lacks something, and return it.

        Return None if that was done less than `REFRESH_INTERVAL` ago. Raises `SignInRefused`.
        """
        async with self._lock:
            now = clock.monotonic()
            if source != self._source or (self._refreshed is not None and now - self._refreshed < REFRESH_INTERVAL):
                return None
            self._refreshed = now
            return await self._fetch(fetch)

    async def _fetch(self, fetch: Callable[[str], Awaitable[T]]) -> T:
        try:
            found = await fetch(self._source)
        except SignInRefused as failure:
            self._failure = (clock.monotonic(), failure)
            raise
        self._value, self._failure = (clock.monotonic(), found), None
        return found
