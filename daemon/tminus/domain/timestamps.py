"""Times as text: RFC 3339 in JSON. The database stores whole milliseconds since 1970.

Every time in tminus is an aware `datetime` in UTC, cut to the millisecond, so that answers, stored values and
comparisons all use the same number.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

_DAY = timedelta(days=1)
_OUTSIDE = "is outside the years 1 to 9999 in UTC"

_EXAMPLE = "for example 2030-08-10T15:30:00.000Z"

# Not `datetime.fromisoformat` for every form: it reads half an hour as half a second (`T10.5Z`), ignores characters
# before the zone, and accepts other forms in each version of Python.
_EXTENDED = r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?"
_BASIC = r"([0-9]{4})([0-9]{2})([0-9]{2})[Tt]([0-9]{2})([0-9]{2})(?:([0-9]{2})(?:[.,]([0-9]+))?)?"
_ZONE = r"([Zz]|([+-])([0-9]{2})(?::?([0-9]{2}))?)?"
_FORMS = (re.compile(_EXTENDED + _ZONE), re.compile(_BASIC + _ZONE))

_USUAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?(?:Z|\+00:00)")
"""The form that almost all programs send. `datetime.fromisoformat` reads it correctly, and quickly."""

_PLUS_LOST = re.compile(r".*[0-9] [0-9]{2}:?[0-9]{2}")
"""An offset such as `+02:00` in a query string, where an unescaped `+` means a space."""


def parse(text: str) -> datetime:
    """Parse a date and time in RFC 3339, or in one of the ISO 8601 forms that `docs/api.md` lists.

    A time without an offset is refused, because it means something else in each time zone. Raises `ValueError` with a
    message that follows the field's name: "is not …".
    """
    if _USUAL.fullmatch(text):
        with suppress(ValueError):  # the reason is found below
            return datetime.fromisoformat(text)
    match = next((found for form in _FORMS if (found := form.fullmatch(text))), None)
    if match is None:
        hint = '; in a URL, write "+" as %2B' if _PLUS_LOST.fullmatch(text) else ""
        raise ValueError(f"is not an RFC 3339 date and time, {_EXAMPLE}{hint}")
    year, month, day, hour, minute, second, fraction, zone, sign, hours, minutes = match.groups()
    if zone is None:
        raise ValueError(f"has no time zone: end it with Z or an offset, {_EXAMPLE}")
    if second == "60":
        raise ValueError("is a leap second, which computer clocks skip: use the second before or after it")
    if int(year) == 0:
        raise ValueError(_OUTSIDE)
    # Digits beyond the milliseconds are cut off.
    milliseconds = int((fraction or "")[:3].ljust(3, "0"))
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    if offset >= _DAY or int(minutes or 0) > 59:
        raise ValueError(f"has an offset beyond 23:59, or with more than 59 minutes, {_EXAMPLE}")
    try:
        local = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second or 0), milliseconds * 1000, UTC
        )
    except ValueError as error:
        raise ValueError(f"is not a valid date and time: {error}") from None
    try:
        return local + offset if sign == "-" else local - offset
    except OverflowError:
        raise ValueError(_OUTSIDE) from None


@lru_cache(maxsize=256)
def text(instant: datetime) -> str:
    """Return a time as text, such as `2021-08-10T15:30:00.000Z`: always in UTC, always with three decimals.

    The result is cached: the same time is usually written several times, in answers, events and the log.
    """
    if instant.tzinfo is not UTC:
        instant = instant.astimezone(UTC)
    return instant.isoformat("T", "milliseconds")[:-6] + "Z"


def milliseconds(span: timedelta) -> int:
    """Return a time span in whole milliseconds."""
    return span // MILLISECOND
