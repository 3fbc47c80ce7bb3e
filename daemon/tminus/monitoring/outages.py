"""Log when the database cannot be written, and when it can be written again.

A full disk still accepts a write now and then: PostgreSQL often finds space in a page that it has. So the database is
logged as writable only when all writes have succeeded for a while; otherwise each such write would be logged as the end
of one outage before the next one.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from tminus import clock
from tminus.domain import timestamps
from tminus.logs.output import log

STEADY = 10.0
"""Seconds for which all writes must succeed before the outage is logged as over."""

BLOCKED = 1.0
"""Seconds that one write may take before it is logged as blocked."""


class Outages:
    """Detects outages of the database. Any thread may use it.

    Parameters
    ----------
    writing_for
        Returns for how many seconds the current write has been running.
    refused
        Returns the number of requests that were refused so far because the database could not be written.
    blocked
        Called with the seconds for which a write has been blocked since the last call.
    """

    def __init__(
        self,
        writing_for: Callable[[], float],
        refused: Callable[[], int] = lambda: 0,
        blocked: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._writing_for = writing_for
        self._refused = refused
        self._blocked = blocked
        self._lock = threading.Lock()
        self._down_since: float | None = None
        """When the first failed write began. All times here are on the monotonic clock."""
        self._works_since: float | None = None
        self._refused_before = 0
        self._blocked_since: float | None = None
        self._counted_until = 0.0
        """Until when the current blocked write has been passed to `blocked`."""
        self._last: dict[str, float] = {}
        """When each cause was last seen."""

    def health(self, failing: str | None) -> None:
        """Note that writes fail for the reason `failing`, or succeed again (None)."""
        with self._lock:
            now = clock.monotonic()
            if failing is None:
                self._works_since = now
                return
            self._works_since = None
            if self._down_since is None:
                self._down_since, self._refused_before = now - self._writing_for(), self._refused()
                log("storage.unavailable", error=failing)

    def check(self) -> None:
        """Log outages that have begun or ended; called each second."""
        with self._lock:
            now = clock.monotonic()
            if self._down_since is not None:
                self._last["database not writable"] = now
                if self._works_since is not None and now - self._works_since >= STEADY:
                    self._recovered(self._down_since, self._works_since)
            self._check_for_blocked_write(now)

    def close(self) -> None:
        """Log the end of an outage that has just ended."""
        with self._lock:
            if self._down_since is not None and self._works_since is not None:
                self._recovered(self._down_since, self._works_since)

    @contextmanager
    def during(self, work: str) -> Iterator[None]:
        """Note if a "read" or "write" of the scheduler is blocked or fails.

        `check` is not enough: it covers no reads, and can miss a write that is blocked for less than two seconds, since
        it runs only once a second.
        """
        begun = clock.monotonic()
        failed = True
        try:
            yield
            failed = False
        finally:
            now = clock.monotonic()
            if now - begun > BLOCKED:
                with self._lock:
                    self._last[f"{work} held up"] = now
            elif failed and work == "read":
                with self._lock:
                    self._last["database not readable"] = now

    def cause(self, lag: timedelta) -> str | None:
        """Return what has delayed transitions within the last `lag`; None if nothing has."""
        with self._lock:
            since = clock.monotonic() - lag.total_seconds() - BLOCKED
            recent = [(at, cause) for cause, at in self._last.items() if at >= since]
            return max(recent)[1] if recent else None

    def _recovered(self, down_since: float, works_since: float) -> None:
        refused = self._refused() - self._refused_before
        since = clock.now() - timedelta(seconds=clock.monotonic() - works_since)
        away_s = round(works_since - down_since)
        log("storage.recovered", since=timestamps.text(since), away_s=away_s, refused=refused)
        self._down_since = self._works_since = None

    def _check_for_blocked_write(self, now: float) -> None:
        held = self._writing_for()
        if held > BLOCKED:
            begun = now - held
            if self._blocked_since is None:
                self._blocked_since = self._counted_until = begun
                since = clock.now() - timedelta(seconds=held)
                log("storage.blocked", blocked_ms=round(held * 1000), since=timestamps.text(since))
            self._blocked(now - self._counted_until)
            self._counted_until = self._last["write held up"] = now
        elif self._blocked_since is not None:
            log("storage.unblocked", blocked_ms=round((now - self._blocked_since) * 1000))
            self._blocked_since = None
