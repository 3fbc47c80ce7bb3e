"""Durations as text, and the description of a wrong value in an error message.

`parse_duration` raises `ValueError` with a message that follows the key's name: "must be …, not …".
"""

import json
import re
from datetime import timedelta

LONGEST = "36500d"
"""The longest duration, a century. The current time plus this duration is far from the year 9999, where Python's
`datetime` ends.
"""

_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?(?:([0-9]+)ms)?")
_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),  # before int, as bool is a subclass of int
    ((int, float), "a number"),
    (str, "text"),
    (list, "a list"),
    (dict, "a table"),
)


def kind(value: object) -> str:
    """Return the kind of a TOML value in words, such as "a number"."""
    return next((words for types, words in _KINDS if isinstance(value, types)), "a date or time")


def quoted(value: object) -> str:
    """Return a value for an error message: text in quotes, cut to 40 characters; any other value by its kind."""
    if not isinstance(value, str):
        return kind(value)
    return json.dumps(value if len(value) <= 40 else f"{value[:40]}…", ensure_ascii=False)


def parse_duration(value: object) -> timedelta:
    """Parse a duration such as `"10m"`, `"1h30m"` or `"3d"`. `"0"` alone needs no unit. Raises `ValueError`."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if value != "0" and (match is None or not value):
        units = f"units {', '.join(_UNITS)}, the largest first"
        raise ValueError(f'must be a duration such as "10m", "1h30m" or "3d" ({units}), not {quoted(value)}')
    numbers = match.groups(default="0") if match else ("0",) * len(_UNITS)
    try:
        return sum((int(n) * unit for n, unit in zip(numbers, _UNITS.values(), strict=True)), timedelta(0))
    except (OverflowError, ValueError):  # too large for a timedelta, or even for int()
        raise ValueError(f'must be at most "{LONGEST}"') from None


def duration_text(span: timedelta) -> str:
    """Return a duration as text, such as `1h30m`: the largest unit first, no zeros, cut to the millisecond."""
    text = ""
    for name, unit in _UNITS.items():
        number, span = divmod(span, unit)
        text += f"{number}{name}" if number else ""
    return text or "0"
