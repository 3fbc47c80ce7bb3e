"""Determine whether the database can be read, from the results of the last reads and without a query."""

import threading
from typing import NamedTuple

from tminus import clock

SLOW = 3.0
"""Seconds after which a running read counts as waiting for a lock."""

FAILURE_LIFETIME = 2.5
"""Seconds for which a failure counts. The scheduler and the event log read different tables once a second, so a
success of one must not hide a failure of the other.
"""


class Unreadable(NamedTuple):
    """The reason why the database cannot be read, and the number of seconds for which it could not."""

    seconds: float
    why: str


class Reads:
    """The running reads, and the last failures. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[object, float] = {}
        """A running read -> when it began, on the monotonic clock."""
        self._failures: tuple[float, float, str] | None = None
        """Of consecutive failures: when the first read began, when the last one ended, and the error of the last."""

    def begin(self, *, may_be_slow: bool) -> object:
        """Record that a read begins; return a mark for `end`. `may_be_slow`: the read may take longer than `SLOW`."""
        mark = object()
        if not may_be_slow:
            with self._lock:
                self._running[mark] = clock.monotonic()
        return mark

    def end(self, mark: object) -> None:
        """Record that the read has ended, whether it succeeded or failed."""
        with self._lock:
            self._running.pop(mark, None)

    def failed(self, why: str, begun: float) -> None:
        """Record that a read has failed. `begun`: when it began, on the monotonic clock."""
        with self._lock:
            present = clock.monotonic()
            first = begun
            if self._failures is not None and present - self._failures[1] < FAILURE_LIFETIME:
                first = self._failures[0]
            self._failures = first, present, why

    def failure(self) -> Unreadable | None:
        """Return why the database cannot be read; None if it can."""
        with self._lock:
            present = clock.monotonic()
            longest = present - min(self._running.values(), default=present)
            if self._failures is not None and present - self._failures[1] < FAILURE_LIFETIME:
                first, _, why = self._failures
                return Unreadable(max(present - first, longest), why)
        return Unreadable(longest, "a read is waiting, perhaps for a lock") if longest > SLOW else None
