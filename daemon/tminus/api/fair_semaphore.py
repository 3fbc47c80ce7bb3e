"""A semaphore that is fair between callers: it limits how many long operations run at a time."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from tminus.domain.errors import Overloaded

MAX_WAITING = 128
"""Maximum number of waiting operations of one caller. One more is refused, since it would wait too long."""


class FairSemaphore:
    """Grant at most `slots` slots at a time. Waiting callers get slots round-robin."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, caller: Hashable) -> AsyncIterator[None]:
        """Wait for a slot, and hold it in the `with` block. Raises `Overloaded`."""
        await self._acquire(caller)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, caller: Hashable) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        queue = self._waiting.setdefault(caller, deque())
        if len(queue) >= MAX_WAITING:
            raise Overloaded
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._release()  # the slot was granted in the same iteration of the event loop
            raise

    def _release(self) -> None:
        """Pass the slot to the caller that has waited longest since its last slot, or free it."""
        while self._waiting:
            caller, queue = self._waiting.popitem(last=False)
            granted = queue.popleft()
            if queue:
                self._waiting[caller] = queue
            if not granted.done():
                granted.set_result(None)
                return
        self._free += 1
