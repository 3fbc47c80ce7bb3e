"""The only module that reads the wall clock.

A function that decides takes `now` as an argument, so a test sets it and needs no tolerance. Code that acts (HTTP
handlers, timers, commands) calls this module.

Daemons that share a PostgreSQL database use its clock: after `follow`, `now` returns the database's time. Timers use
the clock of this machine, so they call `machine`.
"""

import time
from collections.abc import Callable
from datetime import datetime

from tminus.domain.timestamps import EPOCH, MILLISECOND


def machine() -> datetime:
    """Return the time of this machine's clock: aware, in UTC, cut to the millisecond as everywhere in tminus."""
    return EPOCH + MILLISECOND * (time.time_ns() // 1_000_000)


_source: Callable[[], datetime] = machine


def now() -> datetime:
    """Return the current time: that of the shared database if there is one, otherwise that of this machine."""
    return _source()


def follow(source: Callable[[], datetime]) -> None:
    """Make `now` return what `source` returns."""
    global _source  # noqa: PLW0603 - there is one wall clock for the whole process
    _source = source


def booted() -> float:
    """Return when the machine booted, in seconds since 1970. The kernel gives process start times relative to it."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def running() -> float:
    """Return the seconds since the machine booted, including time in suspend, which `monotonic` leaves out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def monotonic() -> float:
    """Return the seconds of a clock that is never set: for durations, and to detect that the wall clock was set."""
    return time.monotonic()
