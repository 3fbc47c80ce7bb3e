"""`eventually`, the only way in which a test waits."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE, _LATER_PAUSE, _MAX_PAUSE = 0.002, 0.05, 0.5
"""Seconds between the first checks, between later ones, and the longest pause after a slow check."""

_IDLE = 4
"""Minimum pause before the next check, as a multiple of the duration of the last one."""


def eventually(condition: Callable[[], T], deadline: float = 60.0) -> T:
    """Check `condition` until it is true, and return its value; fail the test after `deadline` seconds.

    The deadline is generous: it is how long a failure takes, not how long a success does.
    """
    give_up = time.monotonic() + deadline
    pause = _FIRST_PAUSE
    while True:
        begun = time.monotonic()
        value = condition()
        if value:
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {deadline} s; the last value was {value!r}")
        time.sleep(max(pause, min(_IDLE * (time.monotonic() - begun), _MAX_PAUSE)))
        pause = min(pause * 1.5, _LATER_PAUSE)
