"""Waiting for what happens elsewhere."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE = 0.02
"""Seconds between two looks."""


def eventually(condition: Callable[[], T], deadline: float = 10.0) -> T:
    """Returns what `condition` gives as soon as that is true; fails after `deadline` seconds."""
    until = time.monotonic() + deadline
    while not (found := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {deadline} s: {found!r}")
        time.sleep(PAUSE)
    return found
