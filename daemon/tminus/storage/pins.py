"""Free PINs, drawn by lot: as quickly when few are left as when all are free.

While most PINs are free, one drawn at random is. When few are left, that finds none: then each thousand of PINs is
counted, by index, until one has some left, and those are drawn from. How many each has is remembered from draw to draw:
the next costs no more than to read one thousand, and nothing at all when none is left.

What is remembered is only where to look: that a PIN is free is always read in the transaction that takes it.
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
"""PINs that are counted, and read, together: fewer would be more to count, more take longer to read."""

ROUNDS = 3
"""How often PINs are drawn at random before those that are left are looked for. All three fail for one draw of a
hundred while a fifth of the PINs are free."""

COUNTED = 20 * BLOCK
"""PINs that one statement counts: about two milliseconds on SQLite, fifty on a PostgreSQL that has just been filled."""

TURN = 0.2
"""Seconds of counting at a stretch: sessions wait meanwhile to be opened, and callers to be answered. Who needs a PIN
and has not found one by then is refused, as if there were none."""

PAUSE = 9
"""For how many times as long as it has counted it then counts no more: a tenth of the writer's time is enough."""

FRESH = 2.0
"""Seconds for which a count of all is believed: other daemons may have freed PINs meanwhile. Or for `SHARE` times as
long as it took, if that is more."""

SHARE = 50

Ask = Callable[[Any, Any], Any]
"""Runs a statement with values in the transaction that takes the PINs."""

_pin = SESSIONS.c.pin
# In the very words of the index `session_pin`: SQLite uses a partial index for no others.
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
    """Where free PINs are. One thread's: the writer's."""

    def __init__(self) -> None:
        self._left: dict[int, int] | None = None
        """By the first PIN of each thousand that was counted, how many of it are free; None while most are."""
        self._uncounted: list[int] = []
        """Where what one statement counts begins, of what has not been counted; shuffled."""
        self._until = 0.0
        """On the monotonic clock, how long the counts are believed."""
        self._again = 0.0
        """When it may count again."""
        self._took = 0.0
        """Seconds that all counting has taken."""
        self._stretch = 0.0
        """And how many of them since it last paused."""

    @property
    def scarce(self) -> bool:
        """Whether it wants to hear of each PIN that becomes free."""
        return self._left is not None

    def forget(self) -> None:
        """What was drawn may not have been taken: a transaction was rolled back."""
        self._left = None

    def freed(self, pins: Sequence[int]) -> None:
        """These were taken until now."""
        if self._left is not None:
            for pin in pins:
                start = pin - (pin - ids.PINS.start) % BLOCK
                if start in self._left:
                    self._left[start] += 1

    def draw(self, ask: Ask, count: int) -> list[int]:
        """So many different PINs that no open session has, in no order. Fewer when there are no more, or when none was
        found in the time that there is for looking.
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
        """How many PINs of each thousand are free, of the next ones from this on."""
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
        """PINs of one thousand that has free ones, at most `count`; `left` is set right."""
        # Each free PIN is as likely as any other.
        start = random.SystemRandom().choices(list(left), list(left.values()))[0]
        stop = min(start + BLOCK, ids.PINS.stop)
        free = set(range(start, stop)) - drawn - set(ask(_WITHIN, {"start": start, "stop": stop}).scalars())
        found = ids.sample(free, count)
        left[start] = len(free) - len(found)
        return set(found)
