"""A clock that changes only when a test sets it."""

from datetime import UTC, datetime, timedelta

NOW = datetime(2030, 1, 7, 9, 0, tzinfo=UTC)
"""The initial time of every test's clock."""


class SettableClock:
    """A clock: a call returns `time`. A test sets `time`, or calls `passes`."""

    def __init__(self, time: datetime = NOW) -> None:
        self.time = time

    def __call__(self) -> datetime:
        return self.time

    def passes(self, span: timedelta | None = None, **units: float) -> datetime:
        """Advance the clock by a time span, which may be negative, and return the new time: `passes(minutes=10)`."""
        self.time += timedelta(**units) if span is None else span
        return self.time
