"""Whether the database can be read, from the outcome of the last reads and without a query."""

import threading
from dataclasses import dataclass

from tminus import clock

SLOW = 3.0
"""Seconds after which a read that has not ended probably waits for a lock."""

REMEMBERED = 2.5
"""Seconds for which a failure counts. The scheduler and the event log read other tables once a second, so a failure of
one must outlast a success of the other.
"""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why the database cannot be read, and for how many seconds."""

    seconds: float
    why: str


class Reads:
    """The reads that are running, and those that failed last. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[object, float] = {}
        """Read -> when it began, on the monotonic clock."""
        self._failures: tuple[float, float, str] | None = None
        """When the first of consecutive failures began, when the last ended, and the error of the last."""

    def begin(self, *, patient: bool) -> object:
        """Record that a read begins; return what `end` needs. `patient`: it may take longer than `SLOW`."""
        mark = object()
        if not patient:
            with self._lock:
                self._running[mark] = clock.monotonic()
        return mark

    def end(self, mark: object) -> None:
        """Record that the read has ended, with success or not."""
        with self._lock:
            self._running.pop(mark, None)

    def failed(self, why: str, begun: float) -> None:
        """Record that a read has failed, which had begun at this time of the monotonic clock."""
        with self._lock:
            present = clock.monotonic()
            first = begun
            if self._failures is not None and present - self._failures[1] < REMEMBERED:
                first = self._failures[0]
            self._failures = first, present, why

    def failure(self) -> Unreadable | None:
        """Return why the database cannot be read; None if it can."""
        with self._lock:
            present = clock.monotonic()
            longest = present - min(self._running.values(), default=present)
            if self._failures is not None and present - self._failures[1] < REMEMBERED:
                first, _, why = self._failures
                return Unreadable(max(present - first, longest), why)
        return Unreadable(longest, "a read waits, for a lock perhaps") if longest > SLOW else None
