"""Random free PINs, found as quickly when few are left as when all are free.

While most PINs are free, a random one probably is. When few are left, the PINs in use are counted in blocks of a
thousand, with an index, until a block has free ones, and one of those is chosen. The counts are kept in memory, so the
next choice reads only one block, and nothing if no PIN is left.

The counts only show where to search. The transaction that takes a PIN always reads whether it is free.
"""

import math
import random
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sqlalchemy import bindparam, select, text

from tminus import clock
from tminus.domain import ids
from tminus.storage.tables import SESSIONS

BLOCK = 1000
"""Number of PINs in a block. Of smaller blocks there are more to count; larger ones take longer to read."""

ROUNDS = 3
"""Attempts with random PINs before blocks are searched. While a fifth of the PINs are in use, one choice in a hundred
needs the search.
"""

COUNTED = 20 * BLOCK
"""Number of PINs that one statement counts, in about 2 ms on SQLite, and 50 ms on a PostgreSQL database that has just
been filled.
"""

MAX_COUNTING = 0.2
"""Seconds of counting after which there is a pause, because the writer does nothing else while it counts. A request
that has no PIN by then is refused as if there were none.
"""

PAUSE = 9
"""The length of the pause, as a multiple of the time spent counting: counting takes at most a tenth of the writer's
time.
"""

FRESH = 2.0
"""Minimum seconds for which a count of all blocks is valid. It expires, because other daemons may free PINs."""

SHARE = 50
"""Minimum time for which a count is valid, as a multiple of the time that it took."""

Execute = Callable[[Any, Any], Any]
"""Executes a statement with parameters in the transaction that takes the PINs."""

_pin = SESSIONS.c.pin
# The condition is spelled as in the index `session_pin`, because SQLite uses a partial index for no other spelling.
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
    """  # noqa: S608 - the number is a constant
)


class FreePins:
    """Finds free PINs. Used by the writer's thread only."""

    def __init__(self) -> None:
        self._left: dict[int, int] | None = None
        """First PIN of a counted block -> number of its free PINs; None while most PINs are free."""
        self._uncounted: list[int] = []
        """The first PINs of the ranges that have not been counted, in random order; one statement counts a range."""
        self._valid_until = 0.0
        """When the counts become invalid, on the monotonic clock."""
        self._paused_until = 0.0
        """When counting may continue, on the monotonic clock."""
        self._counting_time = 0.0
        """Seconds that the count of all ranges has taken so far."""
        self._since_pause = 0.0
        """Seconds of counting since the last pause."""

    @property
    def scarce(self) -> bool:
        """Whether PINs are scarce, so that blocks are counted and `freed` has to be called."""
        return self._left is not None

    def forget(self) -> None:
        """Discard the counts, because a transaction was rolled back and its PINs are free again."""
        self._left = None

    def freed(self, pins: Sequence[int]) -> None:
        """Add PINs that have become free to the counts."""
        if self._left is not None:
            for pin in pins:
                start = pin - (pin - ids.PINS.start) % BLOCK
                if start in self._left:
                    self._left[start] += 1

    def draw(self, execute: Execute, count: int, reserved: Callable[[], AbstractSet[int]] = frozenset) -> list[int]:
        """Return `count` different PINs that no open session has. `reserved`: returns others that must not be used.

        The result is shorter if there are no more, or if the time for counting is over.
        """
        if self._left is not None and clock.monotonic() > self._valid_until:
            self._left = None
        drawn: set[int] = set()
        excluded: AbstractSet[int] | None = None
        if self._left is None:
            excluded = reserved()
            for _ in range(ROUNDS):
                drawn |= {ids.pin() for _ in range(count - len(drawn))} - excluded
                drawn.difference_update(execute(_AMONG, {"drawn": list(drawn)}).scalars())
                if len(drawn) == count:
                    return list(drawn)
            self._left = {}
            self._uncounted = list(ids.PINS[::COUNTED])
            random.SystemRandom().shuffle(self._uncounted)
            self._valid_until, self._counting_time = math.inf, 0.0
        while len(drawn) < count:
            if any(self._left.values()):
                excluded = reserved() if excluded is None else excluded
                drawn |= self._from_one_block(execute, self._left, count - len(drawn), drawn | excluded)
            elif self._uncounted and clock.monotonic() >= self._paused_until:
                self._left |= self._count(execute, self._uncounted.pop())
            else:
                break
        return list(drawn)

    def _count(self, execute: Execute, first: int) -> dict[int, int]:
        """Return the number of free PINs of each block in the range that begins with this PIN."""
        begun, stop = clock.monotonic(), min(first + COUNTED, ids.PINS.stop)
        left = {
            start: min(BLOCK, stop - start) - taken for start, taken in execute(_COUNT, {"start": first, "stop": stop})
        }
        now = clock.monotonic()
        self._counting_time += now - begun
        self._since_pause += now - begun
        if self._since_pause > MAX_COUNTING:
            self._paused_until, self._since_pause = now + PAUSE * self._since_pause, 0.0
        if not self._uncounted:
            self._valid_until = now + max(FRESH, SHARE * self._counting_time)
        return left

    @staticmethod
    def _from_one_block(execute: Execute, left: dict[int, int], count: int, besides: AbstractSet[int]) -> set[int]:
        """Return at most `count` free PINs of one block other than `besides`, and correct its count in `left`."""
        # A block is chosen with a probability in proportion to its free PINs, so that all free PINs are equally likely.
        start = random.SystemRandom().choices(list(left), list(left.values()))[0]
        stop = min(start + BLOCK, ids.PINS.stop)
        free = set(range(start, stop)) - besides - set(execute(_WITHIN, {"start": start, "stop": stop}).scalars())
        found = ids.choose_pins(free, count)
        left[start] = len(free) - len(found)
        return set(found)
