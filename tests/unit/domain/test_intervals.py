"""Merged intervals, compared with a simple model: the set of minutes in any interval."""

from datetime import timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tests.support.clocks import NOW
from tests.support.factories import MINUTE

from tminus.domain.intervals import Interval, merged

MINUTES = st.integers(-30, 90)


@given(pairs=st.lists(st.tuples(MINUTES, st.integers(0, 40))))
def test_the_merged_intervals_have_the_same_minutes_and_neither_overlap_nor_touch(pairs: list[tuple[int, int]]) -> None:
    busy = {minute for start, length in pairs for minute in range(max(start, 0), min(start + length, 60))}

    found = merged(
        [Interval(NOW + one * MINUTE, NOW + (one + length) * MINUTE) for one, length in pairs], NOW, NOW + 60 * MINUTE
    )

    ranges = [((one.start - NOW) // MINUTE, (one.end - NOW) // MINUTE) for one in found]
    assert {minute for start, end in ranges for minute in range(start, end)} == busy
    assert all(start < end for start, end in ranges)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


def test_a_part_of_a_minute_is_kept() -> None:
    second = timedelta(seconds=1)
    assert merged([Interval(NOW, NOW + second)], NOW, NOW + MINUTE) == [Interval(NOW, NOW + second)]
