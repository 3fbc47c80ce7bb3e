"""The table `meta`: all its keys, and how the values that are JSON are written and read.

Other modules take both from here, so a key cannot be used for two things, nor a value be read otherwise than it was
written. Migrations keep their own literals: they describe a schema of the past.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

import orjson

from tminus.domain import timestamps
from tminus.domain.types import Timeouts

DATABASE_ID = "database_id"
"""The first part of each event id, drawn when the database was made and again when a backup is restored."""

TIMEOUTS = "timeouts"
"""The time-outs from which all stored deadlines follow: `timeouts_text`."""

RETENTION = "retention"
"""The last run of retention: `RetentionRun`."""

WRITE_TEST = "written"
"""Written when writes have failed, to find out whether they succeed again: a time that is never read."""

LOG_PLACE = "log_at:"
"""Followed by the name of a log: how far it has come, a number and a time in milliseconds since 1970."""

LOG_LEFT = "log_left_at"
"""Where a stop of tminus 0.1 left events unlogged; empty if it left none. Only read."""


def timeouts_text(timeouts: Timeouts) -> str:
    """Return the value of `TIMEOUTS`: a JSON array of `lead`, `empty` and, if there is one, `max_active`, in
    milliseconds. `new` is not among them: a session's `expires_at` is stored, and does not follow a change.
    """
    spans = [timeouts.lead, timeouts.empty, *([timeouts.max_active] if timeouts.max_active else [])]
    return orjson.dumps([timestamps.milliseconds(span) for span in spans]).decode()


def parse_timeouts(text: str) -> Timeouts:
    """Return the time-outs of a value of `TIMEOUTS`."""
    lead, empty, *limit = (timedelta(milliseconds=span) for span in orjson.loads(text))
    return Timeouts(lead=lead, empty=empty, max_active=limit[0] if limit else None)


class RetentionRun(NamedTuple):
    """What retention remembers from one run to the next: a JSON array of three numbers, in milliseconds."""

    at: datetime
    ahead: timedelta = timedelta(0)
    """How far the clock had jumped ahead when that was noticed."""
    held_until: datetime | None = None
    """Until when it removes nothing, since the clock may be wrong; None if it may remove."""

    def text(self) -> str:
        """Return the value of `RETENTION`."""
        until = None if self.held_until is None else _number(self.held_until)
        return orjson.dumps([_number(self.at), timestamps.milliseconds(self.ahead), until]).decode()

    @classmethod
    def parse(cls, text: str) -> "RetentionRun":
        """Return the run of a value of `RETENTION`."""
        at, ahead, until = orjson.loads(text)
        return cls(_instant(at), timestamps.MILLISECOND * ahead, None if until is None else _instant(until))


class LogPlace(NamedTuple):
    """How far a log has come."""

    seq: int
    """The number of the last event in it."""
    at: datetime
    """When that was stored."""

    def text(self) -> str:
        """Return the value of a key that begins with `LOG_PLACE`."""
        return f"{self.seq} {_number(self.at)}"

    @classmethod
    def parse(cls, text: str) -> "LogPlace":
        """Return the place of a value."""
        seq, _, at = text.partition(" ")
        return cls(int(seq), _instant(int(at)))


def _number(instant: datetime) -> int:
    return timestamps.milliseconds(instant - timestamps.EPOCH)


def _instant(number: int) -> datetime:
    return timestamps.EPOCH + timestamps.MILLISECOND * number
