"""The only module that reads the wall clock.

A function that decides takes `now` as an argument, so a test sets it and needs no tolerance. Code that acts (HTTP
handlers, timers, commands) calls this module.

Daemons that share a PostgreSQL database use its clock: after `follow`, `now` returns the database's time. Timers use
the clock of this machine, so they call `machine`.

A daemon may run on a test clock, which stands still until a request moves it. Then `now` returns its time, and
`outside` returns the real one, for what other systems compare with their own clocks.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from tminus.domain.timestamps import EPOCH, MILLISECOND


def machine() -> datetime:
    """Return the time of this machine's clock: aware, in UTC, cut to the millisecond as everywhere in tminus."""
    return EPOCH + MILLISECOND * (time.time_ns() // 1_000_000)


_source: Callable[[], datetime] = machine
_outside: Callable[[], datetime] = machine


def now() -> datetime:
    """Return the current time: of the test clock or the shared database if there is one, otherwise of this machine."""
    return _source()


def outside() -> datetime:
    """Return the real time, also on a test clock: for signatures and tokens that other systems make or check."""
    return _outside()


def follow(source: Callable[[], datetime], *, is_test: bool = False) -> None:
    """Make `now` return what `source` returns, and `outside` too, unless `source` is a test clock."""
    global _source, _outside  # noqa: PLW0603 - there is one wall clock for the whole process
    _source = source
    if not is_test:
        _outside = source


LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""The latest time of a test clock. Deadlines are later by configured durations, and `datetime` ends in 9999."""


class ManualClock:
    """A clock that stands still until it is set: the test clock of `tminus run --test-clock`."""

    def __init__(self, instant: datetime) -> None:
        self._instant = instant

    def now(self) -> datetime:
        """Return the time at which the clock stands."""
        return self._instant

    def set(self, instant: datetime) -> None:
        """Set the clock."""
        self._instant = instant


class Move(NamedTuple):
    """A move of the test clock."""

    begun: datetime
    """Where the clock stood before."""
    now: datetime
    """Where it stands now."""
    target: datetime
    """Where it was to go. It is later than `now` if the move ended early."""
    after: int
    """The number of the last event before the move."""


def booted() -> float:
    """Return when the machine booted, in seconds since 1970. The kernel gives process start times relative to it."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def running() -> float:
    """Return the seconds since the machine booted, including time in suspend, which `monotonic` leaves out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def monotonic() -> float:
    """Return the seconds of a clock that is never set: for durations, and to detect that the wall clock was set."""
    return time.monotonic()
