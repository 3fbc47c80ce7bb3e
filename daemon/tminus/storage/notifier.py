"""Wake the coroutines that wait for new events: readers of the feed, delivery workers."""

import asyncio
from contextlib import suppress


class Notifier:
    """Notifies the coroutines of one event loop from any thread.

    A coroutine first calls `next_notification()` and then reads the events. Each commit after that call sets the
    notification, so no event is missed.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._notification: asyncio.Event | None = None

    def next_notification(self) -> asyncio.Event:
        """Return the event that the next `notify` sets. Must be called on the event loop that waits for it."""
        if self._notification is None:
            self._loop = asyncio.get_running_loop()
            self._notification = asyncio.Event()
        return self._notification

    def notify(self) -> None:
        """Wake all waiting coroutines. Costs nothing while none waits."""
        if self._notification is not None and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, so no coroutine waits
                self._loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        notification, self._notification = self._notification, None
        if notification is not None:
            notification.set()


async def wait_for(notification: asyncio.Event, seconds: float) -> bool:
    """Wait at most `seconds` for a notification; return whether there was one."""
    try:
        async with asyncio.timeout(seconds):
            await notification.wait()
    except TimeoutError:
        return False
    return True
