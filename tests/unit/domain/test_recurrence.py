"""Recurrence rules in local time: what they select, and what is refused."""

# ruff: noqa: DTZ001 - local times have no zone

import cProfile
import time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tminus.domain.recurrence import (
    Recurrence,
    earliest_local,
    instant,
    is_over,
    local_text,
    parse_excluded,
    parse_horizon,
    parse_local,
    parse_rule,
    parse_stored_rule,
    parse_zone,
)

ZONES = (
    "Europe/Berlin", "Europe/London", "Europe/Dublin", "America/New_York", "America/Sao_Paulo", "America/St_Johns",
    "Australia/Lord_Howe", "Australia/Sydney", "Asia/Kathmandu", "Africa/Casablanca", "Pacific/Apia",
    "Pacific/Chatham", "Asia/Tehran", "UTC",
)  # fmt: skip
"""Zones of both hemispheres: with changes of the clock by an hour or half an hour, and without changes."""

DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")


def starts(rule: str, start: str, until: str, **more: object) -> list[str]:
    when = Recurrence(parse_local(start), "Europe/Berlin", parse_rule(rule), **more)  # type: ignore[arg-type]
    return [f"{one:%Y-%m-%d %H:%M}" for one in when.between(datetime(2000, 1, 1), parse_local(until), 1000)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=TU", ["12-01", "12-15", "12-29"]),
        ("FREQ=WEEKLY", ["12-01", "12-08", "12-15", "12-22", "12-29"]),
        ("RRULE:freq=weekly;byday=mo,fr;", ["12-04", "12-07", "12-11", "12-14", "12-18", "12-21", "12-25", "12-28"]),
        ("FREQ=MONTHLY;BYDAY=-1FR", ["12-25"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", ["12-31"]),
        ("FREQ=MONTHLY;BYMONTHDAY=-1", ["12-31"]),
        ("FREQ=DAILY;COUNT=3", ["12-01", "12-02", "12-03"]),
        ("FREQ=DAILY;INTERVAL=9;BYMONTHDAY=-13,10", ["12-10", "12-19"]),
        ("FREQ=DAILY;UNTIL=20261202", ["12-01", "12-02"]),
        ("FREQ=DAILY;UNTIL=20261202T080000Z", ["12-01", "12-02"]),
        ("FREQ=DAILY;UNTIL=20261202T075959Z", ["12-01"]),
        ("FREQ=DAILY;UNTIL=20261202T090000", ["12-01", "12-02"]),
        ("FREQ=YEARLY;BYWEEKNO=53;BYDAY=MO", ["12-28"]),
        ("FREQ=YEARLY", ["12-01"]),
        ("FREQ=YEARLY;BYYEARDAY=-1", ["12-31"]),
    ],
)
def test_what_a_rule_selects(rule: str, expected: list[str]) -> None:
    assert starts(rule, "2026-12-01T09:00", "2026-12-31T23:00") == [f"2026-{day} 09:00" for day in expected]


def test_a_day_that_a_month_does_not_have_is_left_out() -> None:
    assert [one[5:10] for one in starts("FREQ=MONTHLY", "2027-01-31T09:00", "2027-08-01T00:00")] == [
        "01-31", "03-31", "05-31", "07-31",
    ]  # fmt: skip
    assert [one[:10] for one in starts("FREQ=YEARLY", "2028-02-29T09:00", "2040-01-01T00:00")] == [
        "2028-02-29", "2032-02-29", "2036-02-29",
    ]  # fmt: skip


def test_times_and_days_can_be_excluded_and_added() -> None:
    found = starts(
        "FREQ=DAILY;BYHOUR=9,15;COUNT=6", "2026-12-01T09:00", "2026-12-31T00:00",
        excluded=frozenset({"2026-12-02", "2026-12-03T15:00:00"}), added=(parse_local("2026-12-05T10:00"),),
    )  # fmt: skip

    assert found == ["2026-12-01 09:00", "2026-12-01 15:00", "2026-12-03 09:00", "2026-12-05 10:00"]


def test_a_series_keeps_its_local_time_when_the_clocks_change() -> None:
    when = Recurrence(parse_local("2026-10-19T09:00"), "Europe/Berlin", parse_rule("FREQ=WEEKLY"))

    found = when.between(datetime(2026, 10, 1), datetime(2026, 11, 3), 9)
    assert [f"{instant(one, when.zone):%m-%d %H:%M}" for one in found] == [
        "10-19 07:00", "10-26 08:00", "11-02 08:00",
    ]  # fmt: skip


def test_a_skipped_local_time_has_the_offset_before_the_change_and_a_repeated_one_is_the_first() -> None:
    assert instant(datetime(2027, 3, 28, 2, 30), "Europe/Berlin") == datetime(2027, 3, 28, 1, 30, tzinfo=UTC)
    assert instant(datetime(2027, 10, 31, 2, 30), "Europe/Berlin") == datetime(2027, 10, 31, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("rule", "start", "expected"),
    [
        ("FREQ=DAILY;UNTIL=20271031T010000Z", "2027-10-29T02:30", ["10-29 00:30", "10-30 00:30", "10-31 00:30"]),
        ("FREQ=DAILY;UNTIL=20271031T002959Z", "2027-10-29T02:30", ["10-29 00:30", "10-30 00:30"]),
        ("FREQ=DAILY;UNTIL=20270328T010000Z", "2027-03-26T02:30", ["03-26 01:30", "03-27 01:30"]),
        ("FREQ=DAILY;UNTIL=20270328T013000Z", "2027-03-26T02:30", ["03-26 01:30", "03-27 01:30", "03-28 01:30"]),
        (
            "FREQ=DAILY;BYHOUR=2,3;BYMINUTE=0,30;UNTIL=20270328T010000Z", "2027-03-27T03:00",
            ["03-27 02:00", "03-27 02:30", "03-28 01:00"],
        ),
    ],
)  # fmt: skip
def test_an_end_in_utc_is_compared_with_the_time_that_a_start_means(rule: str, start: str, expected: list[str]) -> None:
    """In the nights in which clocks change, a rule has the starts up to the instant at which it ends."""
    when = Recurrence(parse_local(start), "Europe/Berlin", parse_rule(rule))
    found = {instant(one, when.zone) for one in when.between(datetime(2027, 1, 1), datetime(2028, 1, 1), 99)}
    assert [f"{one:%m-%d %H:%M}" for one in sorted(found)] == expected


def test_whether_a_rule_is_over_is_decided_in_utc_if_its_end_is() -> None:
    """A rule whose end is in UTC is over at that instant, also when clocks are set back."""
    rule = parse_rule("FREQ=DAILY;UNTIL=20271031T010000Z")
    assert not is_over(rule, datetime(2027, 10, 31, 2, 30), "Europe/Berlin")
    assert is_over(rule, datetime(2027, 10, 31, 3), "Europe/Berlin")


@pytest.mark.parametrize("after", ["2027-03-27T12:00", "2027-03-28T02:29", "2027-03-28T02:30", "2027-03-28T02:59"])
def test_of_starts_that_mean_the_same_time_the_first_one_is_left(after: str) -> None:
    """When clocks skip 02:30, it means 03:30, so a start at 03:30 is left out, wherever a search begins."""
    added = (parse_local("2027-03-28T03:45"), parse_local("2027-03-28T02:45"))
    rule = parse_rule("FREQ=DAILY;BYHOUR=2,3;BYMINUTE=30")
    when = Recurrence(parse_local("2027-03-26T00:00"), "Europe/Berlin", rule, added=added)
    expected = ["28 02:30", "28 02:45", "29 02:30", "29 03:30"]

    found = when.between(parse_local(after), parse_local("2027-03-30T00:00"), 9)
    assert [f"{one:%d %H:%M}" for one in found] == [one for one in expected if one > f"{after[8:10]} {after[11:]}"]
    without = Recurrence(when.start, when.zone, rule, frozenset({"2027-03-28T02:30:00"}))
    assert without.between(parse_local(after), parse_local("2027-03-29T00:00"), 9) == [datetime(2027, 3, 28, 3, 30)]


@settings(max_examples=200, deadline=None)
@given(day=st.dates(date(2010, 1, 1), date(2040, 1, 1)), seconds=st.integers(0, 86_399), zone=st.sampled_from(ZONES))
@example(date(2027, 3, 28), 3600, "Europe/Berlin")
@example(date(2027, 3, 28), 7199, "Europe/Berlin")
@example(date(2027, 3, 28), 7200, "Europe/Berlin")
@example(date(2027, 10, 31), 5400, "Europe/Berlin")
@example(date(2026, 10, 3), 56_000, "Australia/Lord_Howe")
@example(date(2011, 12, 31), 0, "Pacific/Apia")
def test_no_start_that_is_to_come_is_before_the_earliest_local_time(day: date, seconds: int, zone: str) -> None:
    """Each local time before the earliest one means an earlier time, and it means no later time than given."""
    at = datetime.combine(day, datetime.min.time(), UTC) + timedelta(seconds=seconds)
    local = earliest_local(at + timedelta(microseconds=9), zone)
    assert instant(local, zone) <= at
    assert all(instant(local - timedelta(minutes=number, seconds=1), zone) < at for number in range(26 * 60))


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_a_rule_may_end_at_any_time_that_can_be_written(zone: str) -> None:
    """The earliest and the latest end in UTC are compared in each time zone, without an overflow."""
    first = datetime(2027, 1, 1)
    for until, number in (("00010101T000000Z", 0), ("99991231T235959Z", 3)):
        when = Recurrence(first, zone, parse_rule(f"FREQ=DAILY;UNTIL={until}"))
        assert len(when.between(first - timedelta(days=1), first + timedelta(days=2), 9)) == number


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=31", "FREQ=MONTHLY;BYDAY=5MO;BYMONTHDAY=1",
        "FREQ=WEEKLY;BYMONTH=2;COUNT=9999",
        "FREQ=MONTHLY;BYDAY=MO;BYSETPOS=366", "FREQ=YEARLY;BYYEARDAY=366;BYWEEKNO=1", "FREQ=YEARLY;INTERVAL=1000",
        "FREQ=DAILY;INTERVAL=1000;BYMONTH=2;BYMONTHDAY=29", "FREQ=DAILY;COUNT=10000",
        "FREQ=YEARLY;BYMONTH=1,2,3,4,5,6,7,8,9,10,11,12;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYHOUR=1,2,3,4;BYMINUTE=0,30",
    ],
)  # fmt: skip
def test_no_rule_is_computed_for_long(rule: str) -> None:
    """python-dateutil alone would search for the next occurrence up to the year 9999."""
    when = Recurrence(datetime(2026, 12, 1, 9), "Europe/Berlin", parse_rule(rule))
    begun = time.thread_time()

    when.between(datetime(2026, 12, 1), datetime(2027, 12, 31), 1000)
    assert time.thread_time() - begun < 1


@pytest.mark.parametrize(
    "rule",
    [
        "", "WEEKLY", "FREQ=SECONDLY", "FREQ=MINUTELY", "FREQ=HOURLY", "FREQ=DAILY;COUNT=10001", "FREQ=DAILY;COUNT=0",
        "FREQ=DAILY;COUNT=1;UNTIL=20261231", "FREQ=DAILY;INTERVAL=0", "FREQ=DAILY;INTERVAL=-1",
        "FREQ=DAILY;INTERVAL=1001",
        "FREQ=DAILY;FREQ=WEEKLY", "FREQ=DAILY;BYDAY=1MO", "FREQ=DAILY;BYDAY=XX", "FREQ=MONTHLY;BYDAY=54MO",
        "FREQ=MONTHLY;BYDAY=0MO", "FREQ=MONTHLY;BYDAY=6MO", "FREQ=MONTHLY;BYDAY=-6MO", "FREQ=MONTHLY;BYDAY=53MO",
        "FREQ=MONTHLY;INTERVAL=10;BYDAY=MO,10TU", "FREQ=YEARLY;BYMONTH=12;BYDAY=10MO", "FREQ=YEARLY;BYDAY=-54MO",
        "FREQ=MONTHLY;BYMONTHDAY=0", "FREQ=MONTHLY;BYMONTHDAY=32", "FREQ=DAILY;BYHOUR=24",
        "FREQ=DAILY;BYSECOND=1", "FREQ=DAILY;BYEASTER=0", "FREQ=DAILY;UNTIL=2026", "FREQ=DAILY;UNTIL=20261331",
        "FREQ=DAILY;BYHOUR=1,2,3,4,5,6,7,8,9", "FREQ=WEEKLY;BYSETPOS=1", "FREQ=WEEKLY;BYMONTHDAY=1", "FREQ=DAILY;X=1",
        "FREQ=DAILY;BYMONTH=" + "1," * 300, "FREQ=DAILY;COUNT=99999999999999999999", "FREQ=DAILY;WKST=1",
        "FREQ=DAILY\nX:1", "FREQ=DAILY;COUNT=\u0661", None, 7, ["FREQ=DAILY"],
    ],
)  # fmt: skip
def test_rules_that_are_refused(rule: object) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_rule(rule)


@pytest.mark.parametrize(
    "zone", ["", "Mars/Base", "../../etc/passwd", "/etc/localtime", "Europe/..", "Europe", "europe/berlin", "CET-1", 1]
)
def test_zones_that_are_refused(zone: object) -> None:
    with pytest.raises(ValueError, match="must be a time zone"):
        parse_zone(zone)


def test_other_values_that_are_refused() -> None:
    for wrong in (
        "2026-12-01T09:00Z",
        "2026-12-01T09:00+01:00",
        "2026-12-01",
        "2026-02-30T09:00",
        "1999-01-01T00:00",
        1,
    ):
        with pytest.raises(ValueError, match="must be a local time"):
            parse_local(wrong)
    for excluded in ("2026-02-30", "", None, "2026-12-01T09:00Z"):
        with pytest.raises(ValueError, match="must be a local time"):
            parse_excluded(excluded)
    for wrong in ("0", "23h", "367d", "soon"):
        with pytest.raises(ValueError, match="must"):
            parse_horizon(wrong)


# --- comparison with a simple model -----------------------------------------------------------------------------------


def plain(start: datetime, rule: dict[str, object], until: datetime) -> list[datetime]:
    """Return the times that a rule selects, by checking each day."""
    interval, days, month_days, months = rule["interval"], rule["days"], rule["month_days"], rule["months"]
    found = []
    day = start.date()
    while day <= until.date():
        following = (day.replace(day=28) + timedelta(days=4)).replace(day=1)
        length = (following - timedelta(days=1)).day
        weeks = (day - timedelta(days=day.weekday()) - (start.date() - timedelta(days=start.weekday()))).days // 7
        is_in = {
            "DAILY": (day - start.date()).days % interval == 0,  # type: ignore[operator]
            "WEEKLY": weeks % interval == 0,  # type: ignore[operator]
            "MONTHLY": (day.year * 12 + day.month - start.year * 12 - start.month) % interval == 0,  # type: ignore[operator]
            "YEARLY": (day.year - start.year) % interval == 0,  # type: ignore[operator]
        }[str(rule["freq"])]
        is_in &= not days or day.weekday() in days  # type: ignore[operator]
        is_in &= not month_days or day.day in month_days or day.day - length - 1 in month_days  # type: ignore[operator]
        is_in &= not months or day.month in months  # type: ignore[operator]
        if rule["freq"] == "WEEKLY" and not days:
            is_in &= day.weekday() == start.weekday()
        if rule["freq"] in ("MONTHLY", "YEARLY") and not days and not month_days:
            is_in &= day.day == start.day
            if rule["freq"] == "YEARLY" and not months:
                is_in &= day.month == start.month
        one = datetime.combine(day, start.time())
        if is_in and one <= until:
            found.append(one)
        day += timedelta(days=1)
    return found[: int(str(rule["count"]))] if rule["count"] else found


RULES = st.fixed_dictionaries(
    {
        "freq": st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]),
        "interval": st.integers(1, 5),
        "days": st.lists(st.integers(0, 6), max_size=3, unique=True),
        "month_days": st.lists(st.integers(-31, 31).filter(bool), max_size=3, unique=True),
        "months": st.lists(st.integers(1, 12), max_size=3, unique=True),
        "count": st.none() | st.integers(1, 20),
    }
)
DATES = st.dates(date(2024, 1, 1), date(2028, 12, 31))
TIMES = st.integers(0, 47).map(lambda half: timedelta(minutes=30 * half))


@settings(max_examples=150, deadline=None)
@given(rule=RULES, day=DATES, time_of_day=TIMES, zone=st.sampled_from(ZONES), span=st.integers(0, 900))
def test_a_rule_selects_what_the_model_selects_and_keeps_its_time_in_each_zone(
    rule: dict[str, object], day: date, time_of_day: timedelta, zone: str, span: int
) -> None:
    if rule["freq"] == "WEEKLY":
        rule["month_days"] = []
    start = datetime.combine(day, datetime.min.time()) + time_of_day
    until = start + timedelta(days=span)
    parts = [f"FREQ={rule['freq']}", f"INTERVAL={rule['interval']}"]
    for name, key in (("BYMONTHDAY", "month_days"), ("BYMONTH", "months")):
        if rule[key]:
            parts.append(f"{name}={','.join(map(str, rule[key]))}")  # type: ignore[call-overload]
    if rule["days"]:
        parts.append(f"BYDAY={','.join(DAYS[one] for one in rule['days'])}")  # type: ignore[attr-defined]
    if rule["count"]:
        parts.append(f"COUNT={rule['count']}")
    found = Recurrence(start, zone, parse_rule(";".join(parts))).between(start - timedelta(days=1), until, 10_000)

    assert found == plain(start, rule, until)
    for one in found:
        there = instant(one, zone).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        is_skipped = ZoneInfo(zone).utcoffset(one) != ZoneInfo(zone).utcoffset(one.replace(fold=1)) and there != one
        assert there == one or (is_skipped and timedelta(0) < there - one <= timedelta(days=1))


MANY_RULES = st.sampled_from(
    [
        "FREQ=DAILY", "FREQ=DAILY;INTERVAL=3", "FREQ=DAILY;BYHOUR=2,9,23;BYMINUTE=0,30", "FREQ=DAILY;BYMONTH=2,12",
        "FREQ=WEEKLY", "FREQ=WEEKLY;INTERVAL=3;BYDAY=SU,MO,WE", "FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,MO;WKST=SU",
        "FREQ=WEEKLY;BYDAY=TU;BYHOUR=2,9,23", "FREQ=MONTHLY", "FREQ=MONTHLY;INTERVAL=5;BYDAY=-1FR,2TU",
        "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", "FREQ=MONTHLY;BYMONTHDAY=1,-1;BYHOUR=2,23", "FREQ=YEARLY",
        "FREQ=YEARLY;INTERVAL=2;BYMONTH=1,2,12", "FREQ=YEARLY;BYWEEKNO=1,53", "FREQ=YEARLY;BYYEARDAY=1,-1",
        "FREQ=YEARLY;BYWEEKNO=52;BYDAY=MO,SU;WKST=SU", "FREQ=YEARLY;INTERVAL=3;BYDAY=53SU,1MO",
        "FREQ=DAILY;COUNT=500", "FREQ=WEEKLY;BYDAY=MO,FR;COUNT=300", "FREQ=DAILY;UNTIL=20270601T120000Z",
    ]
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(MANY_RULES, DATES, TIMES, st.sampled_from(ZONES), st.integers(-30, 1500), st.integers(0, 86_399))
def test_a_computation_for_later_times_selects_what_one_from_the_start_selects(
    rule: str, day: date, time_of_day: timedelta, zone: str, days: int, seconds: int
) -> None:
    start = datetime.combine(day, datetime.min.time()) + time_of_day
    when = Recurrence(start, zone, parse_rule(rule))
    after = start + timedelta(days=days, seconds=seconds)
    until = after + timedelta(days=800)

    all_times = when.between(start - timedelta(days=1), until, 100_000)
    assert when.between(after, until, 100_000) == [one for one in all_times if one > after]


def test_the_time_of_a_computation_does_not_grow_with_the_age_of_a_series() -> None:
    """The number of calls is compared, which does not depend on the speed of the machine."""
    rule = parse_rule("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYHOUR=2,5,8,11,14,17,20,23;UNTIL=29991231T000000Z")
    when = Recurrence(datetime(2017, 1, 1, 2), "Europe/Berlin", rule)

    def calls(year: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(when.between, datetime(year, 1, 10), datetime(year, 1, 12), 100)
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(2027) < 1.5 * calls(2018)


def numbered_days(start: datetime, numbers: dict[int, int], months: list[int], is_monthly: bool) -> list[datetime]:
    """Return the times in the four years from a start whose weekday has this number in its month or year."""
    found = []
    for count in range(4 * 366):
        one = start + timedelta(days=count)
        in_months = is_monthly or months
        first = one.replace(day=1) if in_months else one.replace(month=1, day=1)
        following = (first + timedelta(days=31 if in_months else 366)).replace(day=1)
        forward, back = (one - first).days // 7 + 1, -(((following - one).days + 6) // 7)
        if (not months or one.month in months) and numbers.get(one.weekday()) in (forward, back):
            found.append(one)
    return found


@settings(max_examples=150, deadline=None)
@given(
    freq=st.sampled_from(["MONTHLY", "YEARLY"]),
    numbers=st.dictionaries(
        st.integers(0, 6), (st.integers(-5, 5) | st.integers(-53, 53)).filter(bool), min_size=1, max_size=3
    ),
    months=st.lists(st.integers(1, 12), max_size=3, unique=True),
    day=DATES,
)
@example("MONTHLY", {0: 53}, [], date(2026, 12, 1))
@example("MONTHLY", {0: 6, 1: 1}, [], date(2026, 12, 1))
@example("YEARLY", {0: 10}, [12], date(2026, 12, 1))
@example("YEARLY", {0: -53, 4: 53}, [], date(2026, 1, 1))
def test_a_number_before_a_weekday_counts_in_the_month_or_year(
    freq: str, numbers: dict[int, int], months: list[int], day: date
) -> None:
    """A number that no month has is refused. A stored rule that has one selects nothing by it."""
    text = f"FREQ={freq};BYDAY={','.join(f'{number}{DAYS[one]}' for one, number in numbers.items())}"
    text += f";BYMONTH={','.join(map(str, months))}" if months else ""
    start = datetime.combine(day, datetime.min.time())
    when = Recurrence(start, "UTC", parse_stored_rule(text))

    found = when.between(start - timedelta(days=1), start + timedelta(days=4 * 366 - 1), 10_000)
    assert found == numbered_days(start, numbers, months, freq == "MONTHLY")
    is_of_months = freq == "MONTHLY" or bool(months)
    if is_of_months and any(abs(number) > 5 for number in numbers.values()):
        with pytest.raises(ValueError, match="must have a number from -5 to 5 before a weekday of a month as BYDAY"):
            parse_rule(text)
    else:
        assert parse_rule(text) == when.rule


@settings(max_examples=150, deadline=None)
@given(
    hours=st.sets(st.integers(0, 23), min_size=1, max_size=8),
    days=st.sets(st.integers(0, 40), max_size=10),
    times=st.sets(st.tuples(st.integers(0, 40), st.integers(0, 23)), max_size=5),
    more=st.sets(st.integers(0, 41 * 48), max_size=5),
    begun=st.integers(-5, 300),
    span=st.integers(1, 40),
    most=st.sampled_from([1, 3, 64, 1000]),
)
@example({8, 12, 16}, {5}, set(), set(), 0, 30, 64)
@example({9, 15}, {2, 3, 4}, set(), set(), 39, 400, 1)
def test_excluded_days_and_times_take_no_place_of_others(
    hours: set[int], days: set[int], times: set[tuple[int, int]], more: set[int], begun: int, span: int, most: int
) -> None:
    """The first starts of a series are the same as those of a list of all starts without the excluded ones."""
    start = datetime(2027, 1, 1)
    added = {start + number * timedelta(minutes=30) for number in more}
    excluded_times = {start + timedelta(days=day, hours=hour) for day, hour in times}
    excluded_dates = {(start + timedelta(days=day)).date() for day in days}
    excluded = {local_text(one) for one in excluded_times} | {one.isoformat() for one in excluded_dates}
    rule = parse_rule(f"FREQ=DAILY;BYHOUR={','.join(map(str, sorted(hours)))}")
    series = Recurrence(start, "UTC", rule, frozenset(excluded), tuple(added))
    after = start + timedelta(hours=begun)
    until = after + timedelta(days=span)

    everything = {start + timedelta(days=day, hours=hour) for day in range(500) for hour in hours} | added
    left = (one for one in everything if one not in excluded_times and one.date() not in excluded_dates)
    assert series.between(after, until, most) == sorted(one for one in left if after < one <= until)[:most]
