"""How reading goes, from what the last reads met: nobody has to ask the database in order to know."""

import threading
from dataclasses import dataclass

from tminus import clock

SLOW = 3.0
"""Seconds after which a read that has not ended is taken for one that waits for a lock."""

REMEMBERED = 2.5
"""Seconds for which a failure counts. The clock and the log read each second, each other tables: what one of them
cannot read is not forgotten because the other can.
"""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why the database cannot be read, and for how many seconds."""

    seconds: float
    why: str


class Reads:
    """The reads that run, and the last that failed. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[object, float] = {}
        """When each began, on the monotonic clock."""
        self._failures: tuple[float, float, str] | None = None
        """When the first of a row of failures was begun, when the last was, and what that met."""

    def begin(self, *, patient: bool) -> object:
        """Note that a read begins; `patient`: it may take its time. Return what `end` takes."""
        mark = object()
        if not patient:
            with self._lock:
                self._running[mark] = clock.monotonic()
        return mark

    def end(self, mark: object) -> None:
        """Note that it has ended, however."""
        with self._lock:
            self._running.pop(mark, None)

    def failed(self, why: str, begun: float) -> None:
        """Note that the database could not serve a read that was begun then, on the monotonic clock."""
        with self._lock:
            present = clock.monotonic()
            first = begun
            if self._failures is not None and present - self._failures[1] < REMEMBERED:
                first = self._failures[0]
            self._failures = first, present, why

    def trouble(self) -> Unreadable | None:
        """Return what stands in the way of reading; None if nothing does."""
        with self._lock:
            present = clock.monotonic()
            longest = present - min(self._running.values(), default=present)
            if self._failures is not None and present - self._failures[1] < REMEMBERED:
                first, _, why = self._failures
                return Unreadable(max(present - first, longest), why)
        return Unreadable(longest, "a read waits, for a lock perhaps") if longest > SLOW else None
