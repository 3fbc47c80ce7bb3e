"""A queue for requests of addresses that have reached a limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tminus.api.fair_semaphore import FairSemaphore
from tminus.domain.networks import client_site


class PacedQueue:
    """Let one request at a time through, at a pace, from addresses that have reached a limit.

    A limit that refuses every request of an address would shut out all who share it with somebody who guesses. Here
    their requests wait instead, and the addresses take turns.

    Parameters
    ----------
    pace
        Seconds between two requests, of all addresses together.
    """

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._queue = FairSemaphore(1)

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait for the turn of an address, and hold it in the `with` block. Raises `Overloaded` if too many wait."""
        async with self._queue.slot(client_site(address)):
            await asyncio.sleep(self._pace)
            yield
