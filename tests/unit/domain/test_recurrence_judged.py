"""Recurrence rules compared with `recurring_ical_events`, a library that tminus does not use.

It needs an older python-dateutil than tminus, so it runs in an environment of its own, which `.ci/run` makes.
"""

# ruff: noqa: DTZ001 - local times have no zone

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tests.support import recurring
from tests.unit.domain.test_recurrence import ZONES

from tminus.domain.recurrence import MAX_IN_MONTH, Recurrence, instant, local_text, parse_rule, parse_stored_rule

VERSION = "3.8.2"
ENVIRONMENT = Path(
    os.environ.get("TMINUS_TEST_RECURRING") or Path.home() / ".cache" / "tminus" / f"recurring-ical-events-{VERSION}"
)
PYTHON = ENVIRONMENT / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists(), reason=f"recurring-ical-events is not in {ENVIRONMENT}: .ci/run installs it there"
    ),
]

FORM = "%Y%m%dT%H%M%S"
LENGTH = timedelta(hours=1)
YEAR = timedelta(days=366)

Oracle = Callable[[str, datetime, datetime], list[datetime]]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """Yield a function that returns the starts of the events of a calendar between two times."""
    command = [str(PYTHON), "-P", recurring.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, responses = process.stdin, process.stdout

        def find(calendar: str, since: datetime, until: datetime) -> list[datetime]:
            request = {"calendar": calendar, "since": since.isoformat(), "until": until.isoformat()}
            requests.write(f"{json.dumps(request)}\n")
            requests.flush()
            return [datetime.fromisoformat(one) for one in json.loads(responses.readline())]

        try:
            yield find
        finally:
            requests.close()


def calendar(start: datetime, zone: str, rule: str | None, excluded: list[str], added: list[datetime]) -> str:
    """Return a series as an event of a calendar."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//tests//EN", "BEGIN:VEVENT", "UID:one@tests"]
    lines += ["DTSTAMP:20260101T000000Z", f"DTSTART;TZID={zone}:{start:{FORM}}", "DURATION:PT1H"]
    lines += [] if rule is None else [f"RRULE:{rule}"]
    for one in excluded:
        is_date = len(one) == len("2026-12-24")
        value = f"VALUE=DATE:{one.replace('-', '')}" if is_date else f"TZID={zone}:{datetime.fromisoformat(one):{FORM}}"
        lines.append(f"EXDATE;{value}")
    lines += [f"RDATE;TZID={zone}:{one:{FORM}}" for one in added]
    return "\r\n".join([*lines, "END:VEVENT", "END:VCALENDAR", ""])


# --- series -----------------------------------------------------------------------------------------------------------

WEEKDAYS = st.lists(st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"]), min_size=1, max_size=3, unique=True)


def numbered(most: int) -> st.SearchStrategy[list[str]]:
    """Return weekdays, some of which have a number."""
    one = st.tuples(st.integers(-most, most), st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"]))
    return st.lists(one.map(lambda pair: f"{pair[0] or ''}{pair[1]}"), min_size=1, max_size=3, unique=True)


def numbers(least: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(least, most).filter(bool), min_size=1, max_size=3, unique=True)


PARTS: dict[str, dict[str, st.SearchStrategy[list[Any]]]] = {
    "DAILY": {"BYDAY": WEEKDAYS, "BYMONTH": numbers(1, 12), "BYMONTHDAY": numbers(-31, 31)},
    "WEEKLY": {"BYDAY": WEEKDAYS, "BYMONTH": numbers(1, 12)},
    "MONTHLY": {"BYDAY": numbered(5), "BYMONTH": numbers(1, 12), "BYMONTHDAY": numbers(-31, 31)},
    "YEARLY": {
        "BYDAY": numbered(5) | numbered(53), "BYMONTH": numbers(1, 12), "BYMONTHDAY": numbers(-31, 31),
        "BYYEARDAY": numbers(-366, 366),
    },
}  # fmt: skip
"""Frequency -> the parts that its rules may have."""


@st.composite
def rules(draw: st.DrawFn) -> str:
    freq = draw(st.sampled_from(sorted(PARTS)))
    parts = [f"FREQ={freq}", f"INTERVAL={draw(st.integers(1, 4))}"]
    chosen = draw(st.lists(st.sampled_from(sorted(PARTS[freq])), max_size=2, unique=True))
    parts += [f"{name}={','.join(map(str, draw(PARTS[freq][name])))}" for name in chosen]
    if draw(st.booleans()):
        parts.append(f"BYHOUR={','.join(map(str, draw(st.lists(st.integers(0, 23), min_size=1, max_size=4))))}")
    if freq == "MONTHLY" and "BYDAY" in "".join(parts) and draw(st.booleans()):
        parts.append(f"BYSETPOS={draw(st.sampled_from([1, 2, -1]))}")
    if freq == "WEEKLY":
        parts.append(f"WKST={draw(st.sampled_from(['MO', 'SU']))}")
    end = draw(st.sampled_from(["", "COUNT", "UNTIL"]))
    if end == "COUNT":
        parts.append(f"COUNT={draw(st.integers(1, 40))}")
    elif end == "UNTIL":
        parts.append(f"UNTIL={datetime.combine(draw(DATES), datetime.min.time()) + draw(HALF_HOURS):{FORM}}Z")
    return ";".join(parts)


DATES = st.sampled_from(
    [date(2028, 2, 29), date(2027, 1, 31), date(2027, 3, 28), date(2027, 10, 31), date(2026, 11, 1)]
) | st.dates(date(2024, 1, 1), date(2029, 12, 31))
"""Dates among which leap days, ends of months and changes of the clocks are frequent."""

HALF_HOURS = st.integers(0, 47).map(lambda half: timedelta(minutes=30 * half))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rule=st.none() | rules(), day=DATES, time_of_day=HALF_HOURS, zone=st.sampled_from(ZONES),
    span=st.integers(1, 800), chosen=st.sets(st.integers(0, 30), max_size=5),
    more=st.lists(st.integers(1, 800 * 48), max_size=4, unique=True), days=st.sets(st.integers(0, 30), max_size=5),
)  # fmt: skip
@example("FREQ=DAILY;INTERVAL=1", date(2027, 3, 20), timedelta(hours=2, minutes=30), "Europe/Berlin", 30, {3}, [], {7})
@example(
    "FREQ=DAILY;INTERVAL=1", date(2027, 10, 20), timedelta(hours=2, minutes=30), "Europe/Berlin", 30, {3}, [5], set()
)
@example("FREQ=YEARLY;INTERVAL=1", date(2028, 2, 29), timedelta(hours=9), "America/New_York", 800, set(), [], set())
@example(
    "FREQ=MONTHLY;INTERVAL=1;BYMONTHDAY=31,-1", date(2027, 1, 31), timedelta(), "Pacific/Apia", 800, {0}, [], set()
)
def test_a_series_has_the_occurrences_that_another_library_finds(
    oracle: Oracle, rule: str | None, day: date, time_of_day: timedelta, zone: str, span: int, chosen: set[int],
    more: list[int], days: set[int],
) -> None:  # fmt: skip
    begin = datetime.combine(day, datetime.min.time()) + time_of_day
    parsed = None if rule is None else parse_stored_rule(rule)
    # Numbers that no month has are refused.
    assume(parsed is None or not parsed.is_of_months or all(abs(number) <= MAX_IN_MONTH for _, number in parsed.days))
    # The other library always counts DTSTART as an occurrence. RFC 5545 does not define this if the rule excludes it.
    firsts = Recurrence(begin, zone, parsed).between(begin - timedelta(days=1), begin + 4 * YEAR, 1)
    assume(firsts)
    start = firsts[0]
    added = [start + timedelta(minutes=30 * number) for number in more]
    until = start + timedelta(days=span)
    everything = Recurrence(start, zone, parsed).between(start - timedelta(days=1), until, 5000)
    assume(len(everything) < 2000)
    can_exclude = _can_exclude(everything, added, zone)
    excluded = [local_text(one) for number, one in enumerate(everything) if number in chosen and can_exclude(one)]
    # The other library also excludes midnight in UTC of an excluded date.
    if not any(instant(one, zone).time() == datetime.min.time() for one in (*everything, *added)):
        excluded += sorted({one.date().isoformat() for number, one in enumerate(everything) if number in days})

    series = Recurrence(start, zone, parsed, frozenset(excluded), tuple(added))
    starts = series.between(start - timedelta(days=1), until, 5000)
    assert series.between(start - timedelta(days=1), until, 2) == starts[:2]
    found = [instant(one, zone) for one in starts]

    until_utc = instant(until, zone)
    expected = oracle(calendar(start, zone, rule, excluded, added), instant(start, zone) - LENGTH, until_utc + LENGTH)
    assert sorted(one for one in found if one < until_utc) == [one for one in expected if one < until_utc]


def _can_exclude(everything: list[datetime], added: list[datetime], zone: str) -> Callable[[datetime], bool]:
    """Return a function that returns whether the other library, given a time to exclude, excludes only this time.

    It also excludes other times that are equal in UTC, such as the one that a skipped time means. It takes midnight,
    local or in UTC, as the whole day.
    """
    is_once_a_day = len({one.time() for one in (*everything, *added)}) == 1
    midnight = datetime.min.time()

    def can(one: datetime) -> bool:
        near = [other for other in (*everything, *added) if other != one and abs(other - one) < timedelta(days=2)]
        if instant(one, zone).astimezone(ZoneInfo(zone)).replace(tzinfo=None) != one:
            return False
        return not near or (is_once_a_day and midnight not in (one.time(), instant(one, zone).time()))

    return can


def test_a_week_number_alone_means_the_weekday_of_the_start(oracle: Oracle) -> None:
    """docs/series.md documents this difference: python-dateutil, and so the other library, takes the whole week."""
    rule, start, until = "FREQ=YEARLY;BYWEEKNO=20", datetime(2027, 5, 17, 9), datetime(2027, 12, 31)
    series = Recurrence(start, "UTC", parse_rule(rule))

    assert series.between(start - timedelta(days=1), until, 99) == [start]
    utc = start.replace(tzinfo=UTC)
    whole = oracle(calendar(start, "UTC", rule, [], []), utc - LENGTH, until.replace(tzinfo=UTC))
    assert whole == [utc + timedelta(days=number) for number in range(7)]
