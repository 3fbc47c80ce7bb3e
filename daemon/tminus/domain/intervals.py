"""Intervals of time: merge them, and cut them to a range."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple


class Interval(NamedTuple):
    """From `start`, up to but not including `end`."""

    start: datetime
    end: datetime


def merged(intervals: Iterable[Interval], start: datetime, end: datetime) -> list[Interval]:
    """Return the parts of intervals between two times, in order. Those that overlap or touch are merged into one."""
    found: list[Interval] = []
    for one in sorted(intervals):
        cut = Interval(max(one.start, start), min(one.end, end))
        if cut.start >= cut.end:
            continue
        if found and cut.start <= found[-1].end:
            found[-1] = Interval(found[-1].start, max(found[-1].end, cut.end))
        else:
            found.append(cut)
    return found
