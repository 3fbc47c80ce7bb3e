"""How an instant is written: ISO 8601 in JSON, whole milliseconds since 1970 in the database.

Every instant in tminus is an aware `datetime` in UTC, cut to the millisecond, so that what was answered, what is
stored and what is compared are the same number.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

# Python 3.11 overlooks a character between seconds and zone, and takes any for the `T`.
_SHAPE = re.compile(r"[0-9W-]{7,10}[T ][0-9:]{2,8}([.,][0-9]+)?(Z|[+-][0-9:]{2,8})?", re.IGNORECASE)


def to_milliseconds(instant: datetime) -> datetime:
    """The same instant, cut (not rounded) to the millisecond."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def parse(text: str) -> datetime:
    """Reads an ISO 8601 date and time with `Z` or an offset.

    Raises `ValueError` with a sentence for the caller: a time without an offset means something else on every machine,
    so it is refused, not guessed.
    """
    example = "for example 2021-08-10T15:30:00.000Z"
    try:
        instant = datetime.fromisoformat(text if _SHAPE.fullmatch(text) else "")
    except ValueError:
        raise ValueError(f"is not an ISO 8601 date and time, {example}") from None
    if instant.tzinfo is None:
        raise ValueError(f"has no time zone: end it with Z or an offset, {example}")
    try:
        return to_milliseconds(instant.astimezone(UTC))
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999 in UTC") from None


@lru_cache(maxsize=256)
def text(instant: datetime) -> str:
    """`2021-08-10T15:30:00.000Z`: UTC, always three decimals, always `Z`.

    Kept, as what happens at one instant is written several times: in answers, events and the log.
    """
    if instant.tzinfo is not UTC:
        instant = instant.astimezone(UTC)
    return instant.isoformat("T", "milliseconds")[:-6] + "Z"


def milliseconds(span: timedelta) -> int:
    """A span in whole milliseconds."""
    return span // MILLISECOND
