"""Limit how many long operations run at a time, with a fair share for each caller."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from tminus.domain.errors import Overloaded

MOST = 128
"""Maximum number of turns that one caller may wait for; one more would wait too long and is refused at once."""


class Turns:
    """Grant at most `at_once` turns at a time. Waiting callers get turns round-robin."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, caller: Hashable) -> AsyncIterator[None]:
        """Wait for a turn, and hold it in the `with` block. Raises `Overloaded`."""
        await self._take(caller)
        try:
            yield
        finally:
            self._give()

    async def _take(self, caller: Hashable) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        queue = self._waiting.setdefault(caller, deque())
        if len(queue) >= MOST:
            raise Overloaded
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give()  # the turn was granted in the same iteration of the event loop
            raise

    def _give(self) -> None:
        """Pass the turn to the caller that has waited longest since its last turn, or free it."""
        while self._waiting:
            caller, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[caller] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
