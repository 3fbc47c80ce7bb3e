"""The clock of a PostgreSQL: daemons that share it decide by it alone, whatever their own machines' clocks show.

Each write transaction reads it together with its BEGIN, so that costs no round trip, and so does the question by which
`watch` looks each second whether the server answers. Between two readings the monotonic clock carries it on.
"""

import threading
from datetime import datetime, timedelta

from tminus import clock
from tminus.domain import timestamps

READ = b"SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""Microseconds since 1970."""

DRIFT = 0.0005
"""Seconds a second by which two clocks may run apart: the most that NTP slews a clock by."""

LAG = 0.5
"""Seconds of difference between two clocks that nobody has to know of."""


class SharedClock:
    """What is known of the server's clock. Any thread.

    A reading was made some time between the question and the answer, which gives an earliest and a latest value of the
    difference to the monotonic clock. Readings narrow it down; one that contradicts them means that somebody has set
    the server's clock. `now` is the earliest: never ahead of the server, so nothing is done early.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[float, float, float] | None = None
        """Earliest and latest difference to the monotonic clock, and when on that clock they were found."""

    def note(self, microseconds: int, asked: float, answered: float) -> None:
        """Take a reading, with the monotonic clock before the question and after the answer."""
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
        """Return the server's time, cut to the millisecond; this machine's, as long as nothing was read."""
        known = self._known
        if known is None:
            return clock.machine()
        return timestamps.EPOCH + timestamps.MILLISECOND * int((known[0] + clock.monotonic()) * 1000)

    def difference(self) -> timedelta:
        """Return by how much this machine's clock is ahead of the server's; zero for less than `LAG`."""
        ahead = clock.machine() - self.now()
        return ahead if abs(ahead.total_seconds()) > LAG else timedelta(0)
