"""Local times at which mistakes with the calendar show: changes of clocks, the leap day, and the ends of months."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

ZONES = (
    "Europe/Berlin", "Europe/London", "Europe/Dublin", "America/New_York", "America/St_Johns", "America/Havana",
    "America/Santiago", "Africa/Cairo", "Africa/Casablanca", "Asia/Jerusalem", "Australia/Lord_Howe",
    "Australia/Sydney", "Pacific/Chatham", "Antarctica/Troll",
)  # fmt: skip
"""Zones whose clocks change: by half an hour, one or two hours; also at midnight, and in the south."""

SINCE, UNTIL = datetime.fromisoformat("2027-07-01"), datetime.fromisoformat("2029-04-20")
"""The moments are between these local times, which are less than two years apart."""

KINDS = ("clocks ahead", "clocks back", "leap day", "month end")

QUARTER = timedelta(minutes=15)


class ClockChange(NamedTuple):
    """A change of the clocks of a zone."""

    local: datetime
    """What clocks show when they are changed, for example 02:00."""
    by: timedelta


@cache
def clock_changes(zone: str) -> tuple[ClockChange, ...]:
    return tuple(_clock_changes(ZoneInfo(zone)))


def _clock_changes(zone: ZoneInfo) -> Iterator[ClockChange]:
    def offset(at: datetime) -> timedelta:
        found = at.astimezone(zone).utcoffset()
        assert found is not None
        return found

    at, last = SINCE.replace(tzinfo=UTC), UNTIL.replace(tzinfo=UTC)
    while at < last:
        following = at + timedelta(days=1)
        if offset(at) != offset(following):
            before = at
            while offset(before + QUARTER) == offset(at):
                before += QUARTER
            yield ClockChange((before + QUARTER + offset(at)).replace(tzinfo=None), offset(following) - offset(at))
        at = following


@cache
def moments(zone: str, kind: str) -> tuple[datetime, ...]:
    """Return the moments of one kind, in local time. A zone whose clocks do not change has none of these changes."""
    if kind == "leap day":
        return (datetime.fromisoformat("2028-02-29"), datetime.fromisoformat("2028-03-01"))
    if kind == "month end":
        months = (SINCE.replace(year=2027 + number // 12, month=number % 12 + 1) for number in range(7, 27))
        return tuple(months)
    is_ahead = kind == "clocks ahead"
    return tuple(one.local for one in clock_changes(zone) if (one.by > timedelta(0)) is is_ahead)


@st.composite
def near(draw: st.DrawFn, zone: str, kind: str) -> datetime:
    """Draw a local time near a moment: within three hours of a change of clocks, or within a day of midnight."""
    most = 12 if kind.startswith("clocks") else 96
    return draw(st.sampled_from(moments(zone, kind))) + draw(st.integers(-most, most)) * QUARTER
