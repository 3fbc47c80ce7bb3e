"""Limit wrong session ids and keys of rooms, without shutting out people who have the right ones.

An address that sent too many wrong ids is not refused, because several people may share it. Its look-ups are queued
instead, and only wrong ones are refused. All such addresses together get ten look-ups a second, and take turns.
"""

from tminus.api.paced_queue import PacedQueue
from tminus.api.rate_limit import RateLimiter
from tminus.config import Rate

PACE = 0.1
"""Seconds between two look-ups of ids for all addresses that sent too many wrong ones.

Ids have twelve characters for live sessions, and six for other types: 57 billion values. If 1,000 sessions with a short
id are open, ten guesses a second find one in 66 days on average.
"""


class IdGuesses:
    """Wrong session ids and keys of rooms, by address. With a rate of None there is no limit."""

    def __init__(self, rate: Rate | None) -> None:
        self._limit = RateLimiter(rate)
        self._queue = PacedQueue(PACE)

    def retry_after(self, address: str) -> float | None:
        """Return the seconds for which wrong ids and keys are refused as too many; None if they are not."""
        return self._limit.retry_after(address)

    def count(self, address: str) -> None:
        """Count a wrong id or key."""
        self._limit.count(address)

    async def turn(self, address: str) -> None:
        """Wait until this address may look up an id. Raises `Overloaded` if too many of its look-ups wait."""
        if self._limit.retry_after(address) is not None:
            async with self._queue.turn(address):
                pass
