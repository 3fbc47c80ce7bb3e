"""The clock of a PostgreSQL server: daemons that share a database use it instead of their machines' clocks.

Each write transaction reads it together with its `BEGIN`, which costs no round trip of its own; so does the watchdog's
query every second (`watch`). Between two readings the monotonic clock continues it.
"""

import threading
from datetime import datetime, timedelta

from tminus import clock
from tminus.domain import timestamps

READ = b"SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""A query for the server's time, in microseconds since 1970."""

DRIFT = 0.0005
"""Seconds per second by which two clocks may drift apart: the most by which NTP slews a clock."""

LAG = 0.5
"""Seconds of difference between two clocks that are not reported."""


class SharedClock:
    """An estimate of the server's clock. Any thread.

    The server read its clock at some time between query and answer, which gives a lowest and a highest value for its
    difference to the monotonic clock. Each reading narrows this range; one that contradicts it means that the server's
    clock was set. `now` uses the lowest value: it is never ahead of the server, so nothing happens early.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[float, float, float] | None = None
        """Lowest and highest difference to the monotonic clock, and the time on that clock when they were computed."""

    def note(self, microseconds: int, asked: float, answered: float) -> None:
        """Add a reading, with the times of the monotonic clock before the query and after the answer."""
        earliest, latest = microseconds / 1e6 - answered, microseconds / 1e6 - asked
        with self._lock:
            if self._known is not None:
                first, last, since = self._known
                drift = DRIFT * max(0.0, answered - since)
                both = max(earliest, first - drift), min(latest, last + drift)
                if both[0] <= both[1]:
                    earliest, latest = both
            self._known = earliest, latest, answered

    def now(self) -> datetime:
        """Return the server's time in whole milliseconds; this machine's before the first reading."""
        known = self._known
        if known is None:
            return clock.machine()
        return timestamps.EPOCH + timestamps.MILLISECOND * int((known[0] + clock.monotonic()) * 1000)

    def difference(self) -> timedelta:
        """Return how far this machine's clock is ahead of the server's; zero if it is less than `LAG`."""
        ahead = clock.machine() - self.now()
        return ahead if abs(ahead.total_seconds()) > LAG else timedelta(0)
