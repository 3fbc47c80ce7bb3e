"""How durations are written, and how a value is named in an error.

`parse_duration` raises `ValueError` with words that follow the key: "must be …, not …".
"""

import json
import re
from datetime import timedelta

LONGEST = "36500d"
"""A century: what is added to the present stays far from the year 9999, where Python's calendar ends."""

_SPAN = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?(?:([0-9]+)ms)?")
_SPAN_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),  # before the numbers: it is one, to Python
    ((int, float), "a number"),
    (str, "text"),
    (list, "a list"),
    (dict, "a table"),
)


def kind(value: object) -> str:
    """What a TOML value is, in words."""
    return next((words for types, words in _KINDS if isinstance(value, types)), "a date or time")


def shown(value: object) -> str:
    """A value for a message: short text as it is, anything else by its kind."""
    if not isinstance(value, str):
        return kind(value)
    return json.dumps(value if len(value) <= 40 else f"{value[:40]}…", ensure_ascii=False)


def parse_duration(value: object) -> timedelta:
    """Reads `"10m"`, `"1h30m"`, `"3d"`; `"0"` alone needs no unit."""
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if value != "0" and (match is None or not value):
        raise ValueError(
            f'must be a duration such as "10m", "1h30m" or "3d" (units d, h, m, s, ms), not {shown(value)}'
        )
    numbers = match.groups(default="0") if match else ("0",) * len(_SPAN_UNITS)
    try:
        return sum((int(n) * unit for n, unit in zip(numbers, _SPAN_UNITS.values(), strict=True)), timedelta(0))
    except (OverflowError, ValueError):  # more than a timedelta, or even int(), will take
        raise ValueError(f'must be at most "{LONGEST}"') from None


def duration_text(span: timedelta) -> str:
    """`1h30m`: the largest units first, those that are nought left out; cut to the millisecond."""
    text = ""
    for name, unit in _SPAN_UNITS.items():
        number, span = divmod(span, unit)
        text += f"{number}{name}" if number else ""
    return text or "0"
