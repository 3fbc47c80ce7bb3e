"""Reminders: how long before the start of a session people are reminded of it. No I/O."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache

import orjson

from tminus.domain.durations import duration_text, parse_duration, quoted

MAX_REMINDERS = 10
"""Maximum number of reminders of a session."""

LONGEST = "366d"
"""The longest time before the start at which people can be reminded."""


def parse_reminder(value: object) -> timedelta:
    """Parse how long before the start a reminder is due, such as `"15m"` or `"1d"`. Raises `ValueError`."""
    span = value if isinstance(value, timedelta) else parse_duration(value)
    if not timedelta(0) < span <= parse_duration(LONGEST):
        raise ValueError(f'must be longer than 0 and at most "{LONGEST}", not {quoted(value)}')
    return span


def in_order(reminders: Iterable[timedelta]) -> tuple[timedelta, ...]:
    """Return reminders in the order in which they are due, each once."""
    return tuple(sorted(set(reminders), reverse=True))


@lru_cache(maxsize=1024)  # the sessions of a site have few different lists
def reminders_text(reminders: tuple[timedelta, ...]) -> str | None:
    """Return reminders as they are stored and shown: a JSON list such as `["1d","15m"]`; None if there are none."""
    shown = [duration_text(span) for span in in_order(reminders)]
    return orjson.dumps(shown).decode() if shown else None


@lru_cache(maxsize=1024)
def parse_stored(text: str | None) -> tuple[timedelta, ...]:
    """Return stored reminders, the longest first."""
    return () if text is None else tuple(parse_duration(one) for one in orjson.loads(text))


def next_reminder(text: str | None, start: datetime | None, after: datetime) -> datetime | None:
    """Return when the first reminder after a time is due, by the stored reminders of a session; None: none is left."""
    if text is None or start is None:
        return None
    return next((at for span in parse_stored(text) if (at := start - span) > after), None)
