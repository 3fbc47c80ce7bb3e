"""The clock of a PostgreSQL server: daemons that share a database use it instead of their machines' clocks.

Each write transaction reads it together with `BEGIN`, without an extra round trip. The watchdog's query (`watch`) reads
it every second. Between two readings the monotonic clock continues it.
"""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from tminus import clock
from tminus.domain import timestamps

READ = (
    b"SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,"
    b" (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint"
)
"""A query for the server's time and for when the server was started, in microseconds since 1970. No two servers have
started at the same microsecond, so the second number tells a server from the one that has taken its place.
"""

DRIFT = 0.0005
"""Seconds per second by which two clocks may drift apart: the maximum rate at which NTP slews a clock."""

TOLERANCE = 0.5
"""Seconds by which two clocks may differ without a report."""


class SharedClock:
    """An estimate of the server's clock. Any thread.

    The server reads its clock between query and answer, which limits the difference between its clock and the monotonic
    clock to a range. Each reading narrows the range; a reading outside of it means that the server's clock was set.
    `now` uses the lowest difference, so it is never ahead of the server and nothing happens early.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[float, float, float] | None = None
        """The lowest and the highest difference to the monotonic clock, and when they were computed, on that clock."""
        self._started: str | None = None
        """When the server of the last reading was started, as it was read."""
        self.switches = 0
        """Number of times that a reading came from another server than the one before."""

    def add_reading(self, row: Sequence[str | None], asked: float, answered: float) -> None:
        """Add a reading: the row that `READ` has returned.

        `asked`, `answered`: the times of the monotonic clock before the query and after the answer.
        """
        microseconds, started = int(row[0] or 0), row[1]
        earliest, latest = microseconds / 1e6 - answered, microseconds / 1e6 - asked
        with self._lock:
            if self._known is not None:
                first, last, since = self._known
                drift = DRIFT * max(0.0, answered - since)
                both = max(earliest, first - drift), min(latest, last + drift)
                if both[0] <= both[1]:
                    earliest, latest = both
            self._known = earliest, latest, answered
            if self._started not in (None, started):
                self.switches += 1
            self._started = started

    def now(self) -> datetime:
        """Return the server's time in whole milliseconds; before the first reading, this machine's time."""
        known = self._known
        if known is None:
            return clock.machine()
        return timestamps.EPOCH + timestamps.MILLISECOND * int((known[0] + clock.monotonic()) * 1000)

    def difference(self) -> timedelta:
        """Return the time by which this machine's clock is ahead of the server's; zero if it is within `TOLERANCE`."""
        ahead = clock.machine() - self.now()
        return ahead if abs(ahead.total_seconds()) > TOLERANCE else timedelta(0)
