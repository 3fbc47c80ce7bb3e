"""A clock that stands still until the test moves it."""

from datetime import UTC, datetime, timedelta

NOW = datetime(2030, 1, 7, 9, 0, tzinfo=UTC)
"""Where every test's clock stands at first."""


class SettableClock:
    """Call it for the time; set `time`, or let some pass."""

    def __init__(self, time: datetime = NOW) -> None:
        self.time = time

    def __call__(self) -> datetime:
        return self.time

    def passes(self, span: timedelta | None = None, **units: float) -> datetime:
        """Moves the clock by a span, back if it is negative, and returns the time then: `passes(minutes=10)`."""
        self.time += timedelta(**units) if span is None else span
        return self.time
