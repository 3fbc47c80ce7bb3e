"""The only reader of the wall clock.

What decides is told the time: `now` is an argument, so a test sets it and nothing needs a tolerance. What acts (the
rim, the timers, the command) asks here.

Daemons that share a database share its clock: `follow` makes `now` return that one. What sleeps by the clock of this
machine asks `machine`.
"""

import time
from collections.abc import Callable
from datetime import datetime

from tminus.domain.timestamps import EPOCH, MILLISECOND


def machine() -> datetime:
    """This machine's clock: aware, UTC, cut to the millisecond in which answers, events and rows are written."""
    return EPOCH + MILLISECOND * (time.time_ns() // 1_000_000)


_source: Callable[[], datetime] = machine


def now() -> datetime:
    """Return the time that counts: the shared database's if there is one, otherwise this machine's."""
    return _source()


def follow(source: Callable[[], datetime]) -> None:
    """From now on `now` returns what `source` does."""
    global _source  # noqa: PLW0603 - a process has one time, and whoever asks must not be able to ask for another one
    _source = source


def booted() -> float:
    """When the machine booted, in seconds since 1970; the kernel counts a process's start from there."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def running() -> float:
    """Seconds since the machine booted, those included in which it was suspended: `monotonic` leaves them out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def monotonic() -> float:
    """Seconds on a clock that no step of the wall clock touches: for durations, and to notice such a step."""
    return time.monotonic()
