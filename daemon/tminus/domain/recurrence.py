"""When the occurrences of a series start: recurrence rules of RFC 5545 in local time. No I/O.

python-dateutil computes which days of a year or a month a rule selects. For a rule that selects none, such as 30
February, it searches without end. So this module calls it for one month or year at a time, or with rules that select
something in each period.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tminus.domain.durations import parse_duration, quoted
from tminus.domain.types import CreateSession

MAX_AHEAD = 1000
"""Maximum number of occurrences of a series within its horizon."""

MAX_RULE = 500
"""Maximum length of a recurrence rule in characters."""

MAX_COUNT = 10_000
"""Maximum number of occurrences in `COUNT=`."""

MAX_INTERVAL = 1000

MAX_A_DAY = 8
"""Maximum number of occurrences on one day."""

MAX_DATES = 366
"""Maximum number of excluded occurrences of a series. It is also the maximum number of added ones."""

LONGEST_SKIP = timedelta(days=1)
"""The longest time by which clocks are set ahead at once: a zone that crosses the date line skips a day."""

FIRST_YEAR, LAST_YEAR = 2000, 2999
"""The years of local times. Python's `datetime` ends with the year 9999."""

FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY")
"""The frequencies that are allowed. `HOURLY` and shorter ones would create too many sessions."""

MAX_IN_MONTH = 5
"""The greatest number before a weekday of a month: no month has a weekday six times."""

_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_DAY = re.compile(rf"([+-]?[0-9]{{1,2}})?({'|'.join(_DAYS)})")
_NUMBERS = {
    "BYMONTH": (1, 12),
    "BYMONTHDAY": (-31, 31),
    "BYYEARDAY": (-366, 366),
    "BYWEEKNO": (-53, 53),
    "BYHOUR": (0, 23),
    "BYMINUTE": (0, 59),
    "BYSETPOS": (-366, 366),
}
"""Part of a rule -> the least and the greatest number in it. Those that may be negative must not be 0."""

_ONLY_OF = {
    "BYMONTHDAY": ("YEARLY", "MONTHLY", "DAILY"),
    "BYYEARDAY": ("YEARLY",),
    "BYWEEKNO": ("YEARLY",),
    "BYSETPOS": ("YEARLY", "MONTHLY"),
}
"""Part of a rule -> the frequencies with which it is allowed."""

_ZONE = re.compile(r"UTC|[A-Za-z][A-Za-z0-9_+-]{0,30}(/[A-Za-z0-9_+-]{1,30}){1,2}")
_LOCAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?")
_UNTIL = re.compile(r"([0-9]{8})(?:T([0-9]{6})(Z?))?")


def parse_horizon(value: object) -> timedelta:
    """Parse how far ahead the sessions of a series are made, such as `30d`. Raises `ValueError`."""
    span = value if isinstance(value, timedelta) else parse_duration(value)
    if not timedelta(days=1) <= span <= timedelta(days=366):
        raise ValueError(f'must be from "1d" to "366d", not {quoted(value)}')
    return span


def parse_zone(value: object) -> str:
    """Check the name of a time zone, such as `Europe/Berlin` or `UTC`. Raises `ValueError`."""
    if isinstance(value, str) and _ZONE.fullmatch(value):
        try:
            zone(value)
        except (KeyError, ValueError, OSError):
            pass
        else:
            return value
    raise ValueError(f'must be a time zone such as "Europe/Berlin" or "UTC", not {quoted(value)}')


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """Return a time zone. Raises `KeyError` if there is none of this name."""
    return ZoneInfo(name)


def parse_local(value: object) -> datetime:
    """Parse a local time such as `2026-12-01T09:00`, without an offset. Raises `ValueError`."""
    if isinstance(value, datetime) and value.tzinfo is None:  # TOML has such times
        value = local_text(value)
    if isinstance(value, str) and _LOCAL.fullmatch(value):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            if FIRST_YEAR <= found.year <= LAST_YEAR:
                return found
    raise ValueError(f'must be a local time without an offset, such as "2026-12-01T09:00", not {quoted(value)}')


def local_text(local: datetime) -> str:
    """Return a local time as text, such as `2026-12-01T09:00:00`."""
    return local.isoformat(timespec="seconds")


def parse_excluded(value: object) -> str:
    """Check an excluded time, which is a local time or a date; return it as it is stored. Raises `ValueError`."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            pass
    try:
        return local_text(parse_local(value))
    except ValueError:
        raise ValueError(
            f'must be a local time such as "2026-12-01T09:00", or a date such as "2026-12-24", not {quoted(value)}'
        ) from None


def instant(local: datetime, zone_name: str) -> datetime:
    """Return the time that a local time means.

    A local time that occurs twice, because clocks are set back, means the first of both. One that does not occur,
    because clocks are set ahead, is later by as much as they are set: 02:30 becomes 03:30.
    """
    return local.replace(tzinfo=zone(zone_name), fold=0).astimezone(UTC)


def earliest_local(at: datetime, zone_name: str) -> datetime:
    """Return the earliest local time that means a time, in whole seconds.

    After clocks were set ahead from 02:00 to 03:00, this is 02:05 while they show 03:05: a start at 02:30 is to come.
    """
    at = at.replace(microsecond=0)
    shown = at.astimezone(zone(zone_name)).replace(tzinfo=None)
    offset = (at - LONGEST_SKIP).astimezone(zone(zone_name)).utcoffset()
    assert offset is not None
    unchanged = at.replace(tzinfo=None) + offset  # what clocks would show if they had not been changed since
    return unchanged if unchanged < shown and instant(unchanged, zone_name) == at else shown


# --- rules ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """A recurrence rule that has been checked."""

    text: str
    freq: str
    interval: int
    count: int | None
    until: str | None
    days: tuple[tuple[int, int], ...]
    """Weekday (0: Monday), and its number in the month or year (0: every one). See `is_of_months`."""
    numbers: tuple[tuple[str, tuple[int, ...]], ...]
    week_start: int

    def of(self, name: str) -> tuple[int, ...]:
        """Return the numbers of a part such as `BYMONTH`."""
        return dict(self.numbers).get(name, ())

    @property
    def is_of_months(self) -> bool:
        """Whether the number of a weekday is its number in a month; otherwise it is that in the year."""
        return self.freq == "MONTHLY" or bool(self.of("BYMONTH"))


def parse_rule(value: object) -> Rule:
    """Parse a recurrence rule such as `FREQ=WEEKLY;BYDAY=MO,WE`. Raises `ValueError`."""
    rule = parse_stored_rule(value)
    never = [f"{number}{_DAYS[day]}" for day, number in rule.days if _is_in_no_month(rule, number)]
    if never:
        raise ValueError(
            f"must have a number from -{MAX_IN_MONTH} to {MAX_IN_MONTH} before a weekday of a month as BYDAY, "
            f"not {quoted(never[0])}"
        )
    return rule


def _is_in_no_month(rule: Rule, number: int) -> bool:
    return rule.is_of_months and abs(number) > MAX_IN_MONTH


def parse_stored_rule(value: object) -> Rule:
    """Parse a recurrence rule that an earlier version may have accepted. Raises `ValueError`.

    It may also have numbers before weekdays that no month has, such as `FREQ=MONTHLY;BYDAY=6MO`. They select nothing.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_RULE:
        raise ValueError(f'must be a recurrence rule such as "FREQ=WEEKLY;BYDAY=MO", of at most {MAX_RULE} characters')
    parts: dict[str, str] = {}
    for part in value.removeprefix("RRULE:").upper().rstrip(";").split(";"):
        name, equals, content = part.partition("=")
        if not equals or not content:
            raise ValueError(f"must consist of parts such as FREQ=WEEKLY, not {quoted(part)}")
        if name in parts:
            raise ValueError(f"must not have {name} twice")
        parts[name] = content
    freq = parts.pop("FREQ", "")
    if freq not in FREQUENCIES:
        raise ValueError(f"must have one of FREQ={', FREQ='.join(FREQUENCIES)}, not {quoted(freq)}")
    count, until = parts.pop("COUNT", None), parts.pop("UNTIL", None)
    if count is not None and until is not None:
        raise ValueError("must not have both COUNT and UNTIL")
    if until is not None:
        _parse_until(until)
    rule = Rule(
        text=value,
        freq=freq,
        interval=_number("INTERVAL", parts.pop("INTERVAL", "1"), 1, MAX_INTERVAL),
        count=None if count is None else _number("COUNT", count, 1, MAX_COUNT),
        until=until,
        days=_weekdays(parts.pop("BYDAY", ""), freq),
        week_start=_week_start(parts.pop("WKST", "MO")),
        numbers=tuple((name, _numbers(name, content, freq)) for name, content in sorted(parts.items())),
    )
    if (len(rule.of("BYHOUR")) or 1) * (len(rule.of("BYMINUTE")) or 1) > MAX_A_DAY:
        raise ValueError(f"must have at most {MAX_A_DAY} times a day")
    return rule


def _number(name: str, text: str, least: int, most: int) -> int:
    if not re.fullmatch("[+-]?[0-9]{1,5}", text) or not least <= int(text) <= most:
        raise ValueError(f"must have a number from {least} to {most} as {name}, not {quoted(text)}")
    return int(text)


def _numbers(name: str, content: str, freq: str) -> tuple[int, ...]:
    if name not in _NUMBERS:
        raise ValueError(f"must not have {quoted(name)}: {', '.join(['BYDAY', 'WKST', *_NUMBERS])} are possible")
    if freq not in _ONLY_OF.get(name, FREQUENCIES):
        raise ValueError(f"must not have {name} with FREQ={freq}")
    least, most = _NUMBERS[name]
    found = tuple(dict.fromkeys(_number(name, one, least, most) for one in content.split(",")))
    if least and 0 in found:
        raise ValueError(f"must not have 0 as {name}")
    return found


def _weekdays(content: str, freq: str) -> tuple[tuple[int, int], ...]:
    found = []
    for one in content.split(",") if content else ():
        match = _DAY.fullmatch(one)
        number = int(match[1] or 0) if match else 0
        if match is None or (match[1] is not None and not 1 <= abs(number) <= 53):
            raise ValueError(f"must have weekdays such as MO or -1FR as BYDAY, not {quoted(one)}")
        if number and freq not in ("YEARLY", "MONTHLY"):
            raise ValueError(f"must not have a number before a weekday with FREQ={freq}")
        found.append((_DAYS.index(match[2]), number))
    return tuple(dict.fromkeys(found))


def _week_start(content: str) -> int:
    if content not in _DAYS:
        raise ValueError(f"must have a weekday such as MO as WKST, not {quoted(content)}")
    return _DAYS.index(content)


def _parse_until(text: str) -> datetime:
    """Return the last time of a rule: in UTC if it ends with Z, otherwise local. A date alone includes that day."""
    match = _UNTIL.fullmatch(text)
    try:
        assert match is not None
        day = datetime.strptime(match[1], "%Y%m%d")  # noqa: DTZ007 - local
        if match[2] is None:
            return day + timedelta(days=1, microseconds=-1)
        clock = datetime.strptime(match[2], "%H%M%S").time()  # noqa: DTZ007 - likewise
        return datetime.combine(day.date(), clock, UTC if match[3] else None)
    except (AssertionError, ValueError, OverflowError):
        raise ValueError(f"must have a date or time such as 20261231T230000Z as UNTIL, not {quoted(text)}") from None


# --- occurrences ------------------------------------------------------------------------------------------------------


class Recurrence(NamedTuple):
    """When the sessions of a series start."""

    start: datetime
    """Local time. No occurrence of the rule is earlier; without a rule, it is the only one."""
    zone: str
    rule: Rule | None = None
    excluded: frozenset[str] = frozenset()
    """Local times and dates without an occurrence, as text."""
    added: tuple[datetime, ...] = ()
    """Local times of occurrences in addition to those of the rule."""

    def between(self, after: datetime, until: datetime, most: int) -> list[datetime]:
        """Return the first `most` local times after `after`, up to `until`, in order. No two mean the same time.

        This takes time in proportion to the number of periods of the rule from `after` to `until`; with `COUNT`, from
        its start, since the earlier ones must be counted.
        """
        return list(islice((one for one in self._starts(after - LONGEST_SKIP, until) if one > after), most))

    def _starts(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Yield the local times after `after`, up to `until`, in order.

        If several mean the same time, only the first of them is yielded.
        """
        seen = set()
        of_rule = _of_rule(self.start, self.rule, after, until, self.zone)
        for one in merge(of_rule, sorted(one for one in self.added if one <= until)):
            if one > after and not self._is_excluded(one) and (start := instant(one, self.zone)) not in seen:
                seen.add(start)
                yield one

    def _is_excluded(self, local: datetime) -> bool:
        return local_text(local) in self.excluded or local.date().isoformat() in self.excluded


class CreateSeries(NamedTuple):
    """The command that creates or changes a series. Its fields have been validated."""

    recurrence: Recurrence
    horizon: timedelta
    """How far ahead sessions are made."""
    session: CreateSession
    """What each of them contains, without a start."""
    sent: Mapping[str, Any]
    """The member `session` of the request as the caller sent it, for answers."""


def _of_rule(
    start: datetime, rule: Rule | None, after: datetime, until: datetime, zone_name: str
) -> Iterator[datetime]:
    """Return the local times of a rule after `after`, and perhaps some before, up to `until`, in order."""
    if rule is None:
        yield from (one for one in (start,) if one <= until)
        return
    end = until if rule.until is None else _parse_until(rule.until)
    last = until if end.tzinfo else min(until, end)
    left = rule.count if rule.count is not None else -1
    times = _monthly_or_yearly if rule.freq in ("YEARLY", "MONTHLY") else _daily_or_weekly
    for one in times(start, rule, start if rule.count is not None else after, last):
        if left == 0 or one > last:
            return
        # When clocks change, local times are not in the order of the times that they mean. So one that is after the end
        # does not mean that all following ones are.
        if one >= start and not (end.tzinfo and instant(one, zone_name) > end):
            left -= 1
            yield one


def is_over(rule: Rule, after: datetime, zone_name: str) -> bool:
    """Return whether a rule has an `UNTIL` that is not after a local time. The end by `COUNT` is not computed."""
    if rule.until is None:
        return False
    end = _parse_until(rule.until)
    return end <= (instant(after, zone_name) if end.tzinfo else after)


def _daily_or_weekly(start: datetime, rule: Rule, after: datetime, last: datetime) -> Iterator[datetime]:
    """Return the times of a daily or weekly rule, from a period before `after` to `last`.

    The library gets only the part of the rule that selects something in each period. The other conditions are applied
    here.
    """
    from dateutil import rrule  # noqa: PLC0415 - loaded only for series

    days = tuple(day for day, _ in rule.days)
    more = {"byweekday": days or None} if rule.freq == "WEEKLY" else {}
    months, month_days = rule.of("BYMONTH"), rule.of("BYMONTHDAY")
    days_of_period = rule.interval * (7 if rule.freq == "WEEKLY" else 1)
    # The library begins in the middle of a period, so one more period is computed.
    skipped = max(0, (after - start).days // days_of_period - 1)
    begin = start + timedelta(days=skipped * days_of_period)
    every = rrule.rrule(
        getattr(rrule, rule.freq), dtstart=begin, interval=rule.interval, until=last, wkst=rule.week_start,
        byhour=rule.of("BYHOUR") or None, byminute=rule.of("BYMINUTE") or None, **more,
    )  # fmt: skip
    for one in every:
        if months and one.month not in months:
            continue
        if rule.freq == "DAILY" and days and one.weekday() not in days:
            continue
        if month_days and one.day not in month_days and one.day - _days_in_month(one) - 1 not in month_days:
            continue
        yield one


def _days_in_month(day: datetime) -> int:
    """Return the number of days in the month of a day."""
    following = day.replace(day=28) + timedelta(days=4)
    return (following - timedelta(days=following.day)).day


def _monthly_or_yearly(start: datetime, rule: Rule, after: datetime, last: datetime) -> Iterator[datetime]:
    """Return the times of a monthly or yearly rule, from a period before `after` to `last`.

    The library computes one month or year at a time.
    """
    from dateutil import rrule  # noqa: PLC0415 - loaded only for series

    is_yearly = rule.freq == "YEARLY"
    given = {name.lower(): numbers for name, numbers in rule.numbers}
    # The library fails on a number that no month has. Such a weekday selects nothing.
    of_rule = [(day, number) for day, number in rule.days if not _is_in_no_month(rule, number)]
    if rule.days and not of_rule:
        return
    days: list[rrule.weekday] | None = [
        rrule.weekday(day, number) if number else rrule.weekday(day) for day, number in of_rule
    ] or None
    # What the rule does not have, it takes from the start.
    if not rule.days and not given.keys() & {"bymonthday", "byyearday", "byweekno"}:
        given["bymonthday"] = (start.day,)
        if is_yearly:
            given.setdefault("bymonth", (start.month,))
    if is_yearly and "byweekno" in given and days is None:
        days = [rrule.weekday(start.weekday())]
    given.setdefault("byhour", (start.hour,))
    given.setdefault("byminute", (start.minute,))
    month = start.year * 12 + start.month - 1
    step = rule.interval * (12 if is_yearly else 1)
    if is_yearly:
        month = start.year * 12
    month += max(0, (after.year * 12 + after.month - 1 - month) // step - 1) * step
    while month <= last.year * 12 + last.month - 1:
        period = datetime(month // 12, month % 12 + 1, 1, tzinfo=None)  # noqa: DTZ001 - local
        # With this interval there is no second period before the year 9999, where the library ends.
        options: dict[str, Any] = {"interval": 10_000 * (1 if is_yearly else 12), "wkst": rule.week_start}
        yield from rrule.rrule(
            getattr(rrule, rule.freq), dtstart=period, byweekday=days, bysecond=start.second, **options, **given
        )
        month += step


def texts(times: Iterable[datetime]) -> list[str]:
    """Return local times as texts, in order and each once."""
    return sorted({local_text(one) for one in times})
