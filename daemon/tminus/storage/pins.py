"""Random free PINs, found as quickly when few are left as when all are free.

While most PINs are free, a random one probably is. When few are left, it is not: then the PINs are counted by index in
blocks of a thousand, until a block has free ones, and one of those is chosen. The counts are kept in memory, so the
next choice reads only one block, and nothing when no PIN is left.

The counts only say where to search. The transaction that takes a PIN always reads whether it is free.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import bindparam, select, text

from tminus import clock
from tminus.domain import ids
from tminus.storage.tables import SESSIONS

BLOCK = 1000
"""PINs in a block. Smaller blocks are more to count, larger ones take longer to read."""

ROUNDS = 3
"""Attempts with random PINs before blocks are searched. While a fifth of the PINs are taken, one choice in a hundred
needs the search."""

COUNTED = 20 * BLOCK
"""PINs that one statement counts: about 2 ms on SQLite, 50 ms on a PostgreSQL that has just been filled."""

TURN = 0.2
"""Seconds of counting before a pause, because the writer does nothing else meanwhile. A request that has no PIN by then
is refused as if there were none."""

PAUSE = 9
"""The pause, as a multiple of the time spent counting: at most a tenth of the writer's time is spent on it."""

FRESH = 2.0
"""Seconds for which a count of all blocks is valid, since other daemons may free PINs."""

SHARE = 50
"""The least validity of a count, as a multiple of the time that it took."""

Ask = Callable[[Any, Any], Any]
"""Runs a statement with parameters in the transaction that takes the PINs."""

_pin = SESSIONS.c.pin
# The condition is spelled as in the index `session_pin`: SQLite uses a partial index for no other spelling.
_TAKEN = select(_pin).where(text("pin <> 0"))
_AMONG = _TAKEN.where(_pin.in_(bindparam("drawn", expanding=True)))
_WITHIN = _TAKEN.where(_pin >= bindparam("start"), _pin < bindparam("stop"))
_COUNT = text(
    f"""
    WITH RECURSIVE block(start) AS (
        SELECT CAST(:start AS INTEGER) UNION ALL SELECT start + {BLOCK} FROM block WHERE start + {BLOCK} < :stop
    )
    SELECT start, (
        SELECT count(*) FROM session WHERE pin <> 0 AND pin >= block.start AND pin < block.start + {BLOCK}
    ) FROM block
    """  # noqa: S608 - a number of our own
)


class FreePins:
    """Finds free PINs. Used by the writer's thread only."""

    def __init__(self) -> None:
        self._left: dict[int, int] | None = None
        """First PIN of a counted block -> how many of it are free; None while most PINs are free."""
        self._uncounted: list[int] = []
        """The first PINs of the ranges that have not been counted, shuffled; one statement counts a range."""
        self._until = 0.0
        """Until when the counts are valid, on the monotonic clock."""
        self._again = 0.0
        """When it may count again."""
        self._took = 0.0
        """Seconds that all counting has taken."""
        self._stretch = 0.0
        """Seconds of counting since the last pause."""

    @property
    def scarce(self) -> bool:
        """Whether blocks are counted, so that `freed` has to be called for each PIN that becomes free."""
        return self._left is not None

    def forget(self) -> None:
        """Discard the counts, since a transaction was rolled back and its PINs are free again."""
        self._left = None

    def freed(self, pins: Sequence[int]) -> None:
        """Add PINs that have become free to the counts."""
        if self._left is not None:
            for pin in pins:
                start = pin - (pin - ids.PINS.start) % BLOCK
                if start in self._left:
                    self._left[start] += 1

    def draw(self, ask: Ask, count: int) -> list[int]:
        """Return so many different PINs that no open session has. Fewer if there are no more, or if the time for the
        search is over.
        """
        if self._left is not None and clock.monotonic() > self._until:
            self._left = None
        drawn: set[int] = set()
        if self._left is None:
            for _ in range(ROUNDS):
                drawn |= {ids.pin() for _ in range(count - len(drawn))}
                drawn.difference_update(ask(_AMONG, {"drawn": list(drawn)}).scalars())
                if len(drawn) == count:
                    return list(drawn)
            self._left = {}
            self._uncounted = list(ids.PINS[::COUNTED])
            random.SystemRandom().shuffle(self._uncounted)
            self._until, self._took = math.inf, 0.0
        while len(drawn) < count:
            if any(self._left.values()):
                drawn |= self._from_one_block(ask, self._left, count - len(drawn), drawn)
            elif self._uncounted and clock.monotonic() >= self._again:
                self._left |= self._count(ask, self._uncounted.pop())
            else:
                break
        return list(drawn)

    def _count(self, ask: Ask, first: int) -> dict[int, int]:
        """Return how many PINs of each block are free, in the range that begins with this PIN."""
        begun, stop = clock.monotonic(), min(first + COUNTED, ids.PINS.stop)
        left = {start: min(BLOCK, stop - start) - taken for start, taken in ask(_COUNT, {"start": first, "stop": stop})}
        now = clock.monotonic()
        self._took += now - begun
        self._stretch += now - begun
        if self._stretch > TURN:
            self._again, self._stretch = now + PAUSE * self._stretch, 0.0
        if not self._uncounted:
            self._until = now + max(FRESH, SHARE * self._took)
        return left

    @staticmethod
    def _from_one_block(ask: Ask, left: dict[int, int], count: int, drawn: set[int]) -> set[int]:
        """Return at most `count` free PINs of one block, and correct its count in `left`."""
        # Each free PIN is as likely as any other.
        start = random.SystemRandom().choices(list(left), list(left.values()))[0]
        stop = min(start + BLOCK, ids.PINS.stop)
        free = set(range(start, stop)) - drawn - set(ask(_WITHIN, {"start": start, "stop": stop}).scalars())
        found = ids.sample(free, count)
        left[start] = len(free) - len(found)
        return set(found)
