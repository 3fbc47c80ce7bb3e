"""The table `meta`: all its keys, and the functions that write and parse their values.

Other modules use these, so that no key is used for two things and each value is parsed as it was written. Migrations
contain literals of their own, because they describe an older schema.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

import orjson

from tminus.domain import timestamps
from tminus.domain.types import Timeouts

DATABASE_ID = "database_id"
"""The first part of each event id: random, assigned when the database is created and again when a backup is restored.
"""

TIMEOUTS = "timeouts"
"""The time-outs from which the stored deadlines were computed, as `timeouts_text` writes them."""

CLOCK = "clock"
"""The time of the test clock, as `instant_text` writes it, or `REAL_CLOCK`. Databases of earlier versions lack it."""

REAL_CLOCK = "real"
"""The value of `CLOCK` in a database that daemons use on the real clock."""

RETENTION = "retention"
"""The last run of retention: `RetentionRun`."""

WRITE_TEST = "written"
"""A time that is written after a failed write, to find out whether writes succeed again. It is never read."""

CHALLENGE_KEY = "challenge_key"
"""The secret key with which all daemons of this database make and check challenges, as hexadecimal digits."""

LOG_POSITION = "log_at:"
"""Followed by the name of a log: the position of that log, as `LogPosition` writes it."""

LOG_LEFT = "log_left_at"
"""Written by early versions of tminus 0.1 at a stop: the last event in the log, empty if the log was complete. This
version only reads and empties it.
"""


def timeouts_text(timeouts: Timeouts) -> str:
    """Return the value of `TIMEOUTS`: a JSON array of `lead`, `empty` and, if it is set, `max_active`, in milliseconds.

    `new` is not included, because the stored `expires_at` of a session does not change with it.
    """
    spans = [timeouts.lead, timeouts.empty, *([timeouts.max_active] if timeouts.max_active else [])]
    return orjson.dumps([timestamps.milliseconds(span) for span in spans]).decode()


def parse_timeouts(text: str) -> Timeouts:
    """Parse a value of `TIMEOUTS`."""
    lead, empty, *limit = (timedelta(milliseconds=span) for span in orjson.loads(text))
    return Timeouts(lead=lead, empty=empty, max_active=limit[0] if limit else None)


class RetentionRun(NamedTuple):
    """The last run of retention, stored as a JSON array of three numbers in milliseconds."""

    at: datetime
    """When it ran."""
    ahead: timedelta = timedelta(0)
    """The time by which the clock had been set ahead, when that was detected."""
    held_until: datetime | None = None
    """The end of the pause in which retention removes nothing, because the clock may be wrong; None: no pause."""

    def text(self) -> str:
        """Return the value of `RETENTION`."""
        until = None if self.held_until is None else _number(self.held_until)
        return orjson.dumps([_number(self.at), timestamps.milliseconds(self.ahead), until]).decode()

    @classmethod
    def parse(cls, text: str) -> "RetentionRun":
        """Parse a value of `RETENTION`."""
        at, ahead, until = orjson.loads(text)
        return cls(_instant(at), timestamps.MILLISECOND * ahead, None if until is None else _instant(until))


class LogPosition(NamedTuple):
    """The position of a log, stored as two integers: an event number, and milliseconds since 1970."""

    seq: int
    """The number of the last event in the log."""
    at: datetime
    """When the position was stored."""

    def text(self) -> str:
        """Return the value of a key that begins with `LOG_POSITION`."""
        return f"{self.seq} {_number(self.at)}"

    @classmethod
    def parse(cls, text: str) -> "LogPosition":
        """Parse a value of a key that begins with `LOG_POSITION`."""
        seq, _, at = text.partition(" ")
        return cls(int(seq), _instant(int(at)))


def instant_text(instant: datetime) -> str:
    """Return a time as an integer: milliseconds since 1970."""
    return str(_number(instant))


def parse_instant(text: str) -> datetime:
    """Parse a time that `instant_text` has written."""
    return _instant(int(text))


def _number(instant: datetime) -> int:
    return timestamps.milliseconds(instant - timestamps.EPOCH)


def _instant(number: int) -> datetime:
    return timestamps.EPOCH + timestamps.MILLISECOND * number
