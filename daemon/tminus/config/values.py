"""Parse and format bounded durations, sizes, rates and dates in settings.

The parsers raise `ValueError` with a message that follows the key: "must be …, not …".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tminus.domain import timestamps
from tminus.domain.durations import LONGEST, kind, parse_duration, quoted

_SIZE = re.compile(r"([0-9]+) ?([A-Za-z]+)")
_SIZE_UNITS = {"B": 1, "KB": 10**3, "KiB": 2**10, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}
_RATE = re.compile(r"([0-9]+)/(second|minute|hour)")
_RATE_UNITS = {"second": 1, "minute": 60, "hour": 3600}


def duration(*, zero: bool = True, at_least: str = "0", at_most: str = LONGEST) -> Callable[[object], timedelta]:
    """Return a parser of durations within bounds."""

    def read(value: object) -> timedelta:
        span = value if isinstance(value, timedelta) else parse_duration(value)
        if span < timedelta(0) or (not span and not zero):
            raise ValueError("must be longer than 0")
        if span < parse_duration(at_least):
            raise ValueError(f'must be at least "{at_least}", not {quoted(value)}')
        if span > parse_duration(at_most):
            raise ValueError(f'must be at most "{at_most}", not {quoted(value)}')
        return span

    return read


def duration_or_never(never: str, *, at_least: str = "0") -> Callable[[object], timedelta | None]:
    """Return a parser of durations above zero. It returns None for the text that `never` contains."""

    def read(value: object) -> timedelta | None:
        if value is None or value == never:
            return None
        try:
            return duration(zero=never == "0", at_least=at_least)(value) or None
        except ValueError as error:
            raise ValueError(f'{error}; "{never}" means never') from None

    return read


def parse_size(value: object) -> int:
    """Parse a size such as `"64KiB"` into bytes: KB, MB, GB are powers of 1000; KiB, MiB, GiB are powers of 1024."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _SIZE_UNITS or len(match[1]) > 15:
        raise ValueError(f'must be a size such as "64KiB" (units {", ".join(_SIZE_UNITS)}), not {quoted(value)}')
    return int(match[1]) * _SIZE_UNITS[match[2]]


def size_text(size: int) -> str:
    """Return a size as text, such as `64KiB`, in the largest unit that leaves no fraction."""
    name, unit = max((item for item in _SIZE_UNITS.items() if size % item[1] == 0), key=lambda item: item[1])
    return f"{size // unit}{name}" if size else "0B"


def size(*, at_least: str, at_most: str) -> Callable[[object], int]:
    """Return a parser of sizes within bounds."""

    def read(value: object) -> int:
        number = parse_size(value)
        if not parse_size(at_least) <= number <= parse_size(at_most):
            raise ValueError(f'must be from "{at_least}" to "{at_most}", not {quoted(value)}')
        return number

    return read


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit: `count` within `seconds`."""

    count: int
    seconds: int

    def __str__(self) -> str:
        unit = next(name for name, seconds in _RATE_UNITS.items() if seconds == self.seconds)
        return f"{self.count}/{unit}"


def parse_rate(value: object) -> Rate | None:
    """Parse a rate such as `"30/minute"`; `""` is None, no limit."""
    if value is None or value == "":
        return None
    if isinstance(value, Rate):
        return value
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or len(match[1]) > 9 or int(match[1]) == 0:
        raise ValueError(
            f'must be a rate such as "30/minute" (second, minute or hour), or "" for no limit, not {quoted(value)}'
        )
    return Rate(int(match[1]), _RATE_UNITS[match[2]])


def parse_expiry(value: object) -> datetime | None:
    """Parse a TOML date and time with an offset, or the same as RFC 3339 text; `""` is None, never."""
    if value is None or value == "":
        return None
    if isinstance(value, datetime | str):
        return timestamps.parse(str(value))
    raise ValueError(f"must be a date and time with an offset, such as 2027-01-01T00:00:00Z, not {kind(value)}")
