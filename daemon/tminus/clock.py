"""The only reader of the wall clock.

What decides is told the time: `now` is an argument, so a test sets it and nothing needs a tolerance. What acts (the
rim, the timers, the command) asks here.
"""

import time
from datetime import datetime

from tminus.instants import EPOCH, MILLISECOND


def now() -> datetime:
    """The wall clock: aware, UTC, cut to the millisecond in which answers, events and rows are written."""
    return EPOCH + MILLISECOND * (time.time_ns() // 1_000_000)


def booted() -> float:
    """When the machine booted, in seconds since 1970; the kernel counts a process's start from there."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def monotonic() -> float:
    """Seconds on a clock that no step of the wall clock touches: for durations, and to notice such a step."""
    return time.monotonic()
