"""Turns for what may take long: a few at once, and each caller's next one before anybody's one after that."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from tminus.domain.errors import Overloaded

MOST = 128
"""Turns that one caller may wait for. One more is refused at once: it could not be answered in good time."""


class Turns:
    """At most `at_once` turns at a time. Callers who wait are served in rounds, however many one of them wants."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, caller: Hashable) -> AsyncIterator[None]:
        """Waits for a turn, and holds it meanwhile. Raises `Overloaded`."""
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
                self._give()  # it was granted at the same moment
            raise

    def _give(self) -> None:
        """The turn goes to the caller who has waited longest since the last one, or is free."""
        while self._waiting:
            caller, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[caller] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
