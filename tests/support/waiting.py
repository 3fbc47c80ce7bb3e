"""`eventually`, the only way in which a test waits."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_LOOK, _LAST_LOOK, _LONGEST = 0.002, 0.05, 0.5
"""Seconds between two looks: what comes at once is seen at once, and what takes long is not asked for all the time."""

_IDLE = 4
"""How many times as long as a look took it waits before the next, at least: what is looked at has the machine."""


def eventually(condition: Callable[[], T], deadline: float = 30.0) -> T:
    """Looks until `condition` is true and returns what it said; fails the test after `deadline` seconds.

    The deadline is generous: it is how long a failure takes, not how long a success does.
    """
    give_up = time.monotonic() + deadline
    pause = _FIRST_LOOK
    while True:
        begun = time.monotonic()
        said = condition()
        if said:
            return said
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {deadline} s; the last look said {said!r}")
        time.sleep(max(pause, min(_IDLE * (time.monotonic() - begun), _LONGEST)))
        pause = min(pause * 1.5, _LAST_LOOK)
