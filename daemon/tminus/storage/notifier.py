"""Wakes coroutines when something was committed: readers of the feed, webhooks."""

import asyncio
from contextlib import suppress


class Notifier:
    """Rung on any thread, heard on one event loop.

    Whoever listens takes `next_ring()` first and looks afterwards: what is committed after the look rings it.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ring: asyncio.Event | None = None

    def next_ring(self) -> asyncio.Event:
        """Set when the notifier rings next. On the loop that listens."""
        if self._ring is None:
            self._loop = asyncio.get_running_loop()
            self._ring = asyncio.Event()
        return self._ring

    def ring(self) -> None:
        """Wakes all who listen. Costs nothing while nobody does."""
        if self._ring is not None and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.set()


async def wait_for(ring: asyncio.Event, seconds: float) -> bool:
    """Waits for a ring, so long at the most; returns whether there was one."""
    try:
        async with asyncio.timeout(seconds):
            await ring.wait()
    except TimeoutError:
        return False
    return True
