"""Describe many numbers by a few: mean, percentiles, and the load over the day."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, tzinfo

HOURS = 24


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary of numbers. All but `count` are None if there are no numbers."""

    count: int
    mean: float | None = None
    p50: int | None = None
    """The median, by the nearest-rank method: at least half of the numbers are not greater."""
    p99: int | None = None
    """The 99th percentile, by the same method."""
    max: int | None = None


def summary(numbers: Iterable[tuple[int, int]]) -> Summary:
    """Return the summary of numbers, given as pairs: a number, and how often it occurs."""
    pairs = sorted(numbers)
    count = sum(times for _, times in pairs)
    if not count:
        return Summary(0)
    mean = sum(number * times for number, times in pairs) / count
    return Summary(count, mean, _percentile(pairs, count, 50), _percentile(pairs, count, 99), pairs[-1][0])


def _percentile(pairs: list[tuple[int, int]], count: int, percent: int) -> int:
    """Return the number at this percentile, by the nearest-rank method."""
    rank = -(-count * percent // 100)
    seen = 0
    for number, times in pairs:
        seen += times
        if seen >= rank:
            return number
    raise AssertionError("the last number has the highest rank")


def by_hour(times: Iterable[tuple[datetime, int]], zone: tzinfo) -> list[int]:
    """Return how many of the times fall into each hour of the day in a zone.

    `times`: pairs of a time, and how often it occurs.
    """
    hours = [0] * HOURS
    for time, count in times:
        hours[time.astimezone(zone).hour] += count
    return hours
