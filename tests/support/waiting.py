"""The one way in which a test waits."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LOOK = 0.005


def eventually(condition: Callable[[], T], deadline: float = 10.0) -> T:
    """Looks until `condition` is true and returns what it said; fails the test after `deadline` seconds.

    The deadline is generous: it is how long a failure takes, not how long a success does.
    """
    give_up = time.monotonic() + deadline
    while True:
        said = condition()
        if said:
            return said
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {deadline} s; the last look said {said!r}")
        time.sleep(_LOOK)
