"""What is fetched from the issuer and kept: the discovery document and the keys."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from tminus import clock
from tminus.oidc.errors import SignInRefused

KEPT = 3600.0
"""Seconds for which a copy is used before it is fetched again."""

STALE = 24 * 3600.0
"""Seconds for which an older copy is used while the issuer does not answer."""

FAILED = 5.0
"""Seconds after a failure within which nothing is fetched again. Otherwise each sign-in would wait for its own."""

REFETCH = 60.0
"""Minimum seconds between two fetches because a copy lacks something."""

T = TypeVar("T")


class Kept(Generic[T]):
    """One value. Callers at the same time share a request."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._source = ""
        self._value: tuple[float, T] | None = None
        self._failure: tuple[float, SignInRefused] | None = None
        self._refetched: float | None = None

    async def get(self, source: str, fetch: Callable[[str], Awaitable[T]]) -> tuple[T, bool]:
        """Return the value of a URL, and whether it has just been fetched. Raises `SignInRefused`."""
        async with self._lock:
            if source != self._source:
                self._source, self._value, self._failure = source, None, None
            value, now = self._value, clock.monotonic()
            if value is not None and now - value[0] < KEPT:
                return value[1], False
            if self._failure is None or now - self._failure[0] >= FAILED:
                with suppress(SignInRefused):  # `_fetch` keeps it
                    return await self._fetch(fetch), True
            if value is not None and now - value[0] < STALE:
                return value[1], False
            assert self._failure is not None, "otherwise a value was returned"
            # A new one: an exception that is raised again and again keeps the frames of all requests.
            raise SignInRefused(self._failure[1].refusal, self._failure[1].detail)

    async def again(self, source: str, fetch: Callable[[str], Awaitable[T]]) -> T | None:
        """Fetch the value again, because the copy lacks something; None if that was done lately.

        Raises `SignInRefused`.
        """
        async with self._lock:
            now = clock.monotonic()
            if source != self._source or (self._refetched is not None and now - self._refetched < REFETCH):
                return None
            self._refetched = now
            return await self._fetch(fetch)

    async def _fetch(self, fetch: Callable[[str], Awaitable[T]]) -> T:
        try:
            found = await fetch(self._source)
        except SignInRefused as failure:
            self._failure = (clock.monotonic(), failure)
            raise
        self._value, self._failure = (clock.monotonic(), found), None
        return found
