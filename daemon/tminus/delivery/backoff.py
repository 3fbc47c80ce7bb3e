"""When to try again. Pure, but for the dice."""

import email.utils
import random
from datetime import UTC, datetime, timedelta

FIRST = timedelta(seconds=5)
LONGEST = timedelta(hours=1)

LONGEST_ASKED = timedelta(days=1)
"""No receiver is waited for longer than this, whatever it asks."""


def pause(failures: int, asked: timedelta | None = None, first: timedelta = FIRST) -> timedelta:
    """How long to wait after so many failures in a row (1 or more): doubled each time up to an hour, and less by up to
    half at random, so that what failed together does not come back together; never less than the receiver `asked` for.
    """
    longest: timedelta = min(LONGEST, first * (1 << min(failures - 1, 30)))
    drawn = longest * random.uniform(0.5, 1)  # noqa: S311 - no secret
    return max(drawn, min(asked, LONGEST_ASKED)) if asked is not None else drawn


def retry_after(header: str | None, now: datetime) -> timedelta | None:
    """What a `Retry-After` asks for: seconds, or a date; None if it says nothing that makes sense."""
    if header is None:
        return None
    asked = header.strip()
    if asked.isascii() and asked.isdigit():
        # More digits than int() reads are more than is waited for.
        return timedelta(seconds=min(int(asked.lstrip("0")[:9] or "0"), LONGEST_ASKED.total_seconds()))
    try:
        date = email.utils.parsedate_to_datetime(asked)
    except (ValueError, OverflowError):  # the latter for a number in it that no date holds
        return None
    return max(timedelta(0), (date if date.tzinfo else date.replace(tzinfo=UTC)) - now)
