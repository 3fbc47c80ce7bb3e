"""Move the test clock: from deadline to deadline, so that everything happens in order and at its time."""

import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial

from tminus import clock
from tminus.clock import ManualClock, Move
from tminus.domain import timestamps
from tminus.domain.errors import StoreUnavailable
from tminus.logs.output import log
from tminus.scheduler import sources
from tminus.storage import Store, View, test_clock

MAX_SECONDS = 10.0
"""Real seconds after which a move ends early, because clients wait only so long for an answer. There may be more
deadlines on the way than can be met in this time. The caller then continues with another move.
"""

MAX_EVENTS = 1000
"""Number of events after which a move ends early. The answer lists at most this many. Retention, which runs after the
move, could remove further ones before a client has read them.
"""

Target = Callable[[datetime, datetime | None], datetime]
"""Returns the time to which the clock moves. Arguments: its present time, and the next deadline or None."""


class ClockMoves:
    """Moves the test clock.

    Parameters
    ----------
    manual
        The test clock.
    store
        The database, which keeps the time of the clock.
    tick
        Does what is due; returns the next deadline, None if there is none.
    stopping
        Set when the daemon stops; a move then ends early.
    remove_old
        Removes what is older than its retention.
    """

    def __init__(
        self,
        manual: ManualClock,
        store: Store,
        tick: Callable[[], datetime | None],
        stopping: threading.Event,
        remove_old: Callable[[], object],
    ) -> None:
        self._clock = manual
        self._store = store
        self._tick = tick
        self._stopping = stopping
        self.remove_old = remove_old
        self._lock = threading.Lock()
        """Held during a move, which goes on if its request is cancelled: another request may follow meanwhile."""

    def move(self, target: Target) -> Move:
        """Move the clock; stop at each deadline on the way, and do what is due then.

        Raises what `target` raises, `StoreUnavailable` and `Overloaded`. After an error the clock stands at the last
        deadline that it has reached.
        """
        with self._lock:
            if not self._store.acquire(test_clock.LOCK):
                raise StoreUnavailable  # the lock was lost with its connection, and another daemon holds it now
            give_up = clock.monotonic() + MAX_SECONDS
            begun = self._clock.now()
            due, last_seq = self._store.read(_next_due_and_last_seq, lane="clock")
            aim = target(begun, due)
            while True:
                stop = aim if due is None else min(aim, max(due, self._clock.now()))
                if stop > self._clock.now():
                    self._store.submit(partial(test_clock.set_time, instant=stop), clock=True).result()
                    self._clock.set(stop)  # after storing it: a restarted clock must not be behind what has happened
                due = self._tick()
                is_stuck = due is not None and due <= self._clock.now()  # a sweep ends early when the daemon stops
                if stop == aim or is_stuck or self._stopping.is_set() or clock.monotonic() > give_up:
                    break
                if self._store.read(lambda view: view.last_seq(), lane="clock") - last_seq >= MAX_EVENTS:
                    break
            log("clock.moved", moved_from=timestamps.text(begun), now=timestamps.text(self._clock.now()))
            return Move(begun, self._clock.now(), aim, last_seq)


def _next_due_and_last_seq(view: View) -> tuple[datetime | None, int]:
    return sources.next_due(view), view.last_seq()
