"""Compute how long to wait before a retry."""

import email.utils
import random
from datetime import UTC, datetime, timedelta

FIRST = timedelta(seconds=5)
MAX_DELAY = timedelta(hours=1)

MAX_RETRY_AFTER = timedelta(days=1)
"""The longest delay that a receiver's `Retry-After` can cause."""


def delay(failures: int, requested: timedelta | None = None, first: timedelta = FIRST) -> timedelta:
    """Return the delay before the next attempt. `failures`: the number of consecutive failures, at least 1.

    The delay doubles with each failure, up to an hour, and is reduced at random by up to half, so that endpoints that
    failed together do not retry together. It is not shorter than the receiver has `requested`, up to a day.
    """
    longest: timedelta = min(MAX_DELAY, first * (1 << min(failures - 1, 30)))
    chosen = longest * random.uniform(0.5, 1)  # noqa: S311 - not a secret
    return max(chosen, min(requested, MAX_RETRY_AFTER)) if requested is not None else chosen


def retry_after(header: str | None, now: datetime) -> timedelta | None:
    """Return the delay that a `Retry-After` header requests, in seconds or as a date; None if it cannot be parsed."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        # Nine digits are enough: they exceed the maximum. int() refuses very many digits.
        return timedelta(seconds=min(int(text.lstrip("0")[:9] or "0"), MAX_RETRY_AFTER.total_seconds()))
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # OverflowError: a number in it is too large for a date
        return None
    return max(timedelta(0), (date if date.tzinfo else date.replace(tzinfo=UTC)) - now)
