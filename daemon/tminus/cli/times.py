"""Read the daemon's time, and format instants in the local time zone or in UTC."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tminus.client import ScreenMeetError
from tminus.domain import timestamps
from tminus.domain.durations import duration_text

if TYPE_CHECKING:
    from tminus import schemas


def time_of(daemon: Any) -> datetime:
    """Return the daemon's time. It may be that of a test clock, and this machine's clock may be wrong."""
    shown: schemas.Clock = daemon.request("GET", "/clock")
    return timestamps.parse(shown["now"])


def time_if_known(daemon: Any) -> datetime | None:
    """Return the daemon's time, or None after an error: a command whose request succeeded still prints the result."""
    try:
        return time_of(daemon)
    except ScreenMeetError:
        return None


class TimeFormat:
    """Formats instants in one time zone.

    Parameters
    ----------
    now
        The current time. An instant in the same year is written without the year.
    utc
        Whether to use UTC instead of the local zone of the process.
    full
        Whether to write year and offset always, for programs.
    """

    def __init__(self, now: datetime, *, utc: bool, full: bool) -> None:
        self._now = now
        self._utc = utc
        self._full = full

    def text(self, instant: str | None, *, seconds: bool = False) -> str:
        """Return an instant as `12-01 15:30` or `2027-12-01 15:30`, for programs as `2026-12-01T15:30:00+01:00`, and
        `""` if there is none.
        """
        if not instant:
            return ""
        at = self._here(timestamps.parse(instant))
        if self._full:
            written = at.isoformat(timespec="seconds")
            return written.replace("+00:00", "Z") if self._utc else written
        day = f"{at:%m-%d}" if at.year == self._here(self._now).year else f"{at:%Y-%m-%d}"
        return f"{day} {at:%H:%M:%S}" if seconds else f"{day} {at:%H:%M}"

    @property
    def zone(self) -> str:
        """The name of the time zone."""
        return "UTC" if self._utc else self._here(self._now).tzname() or "local time"

    def until(self, instant: str) -> str:
        """Return the time until an instant, such as `1h30m`."""
        seconds = max(0, int((timestamps.parse(instant) - self._now).total_seconds()))
        return duration_text(timedelta(seconds=seconds)) if seconds else "0s"

    def _here(self, instant: datetime) -> datetime:
        if self._utc:
            return instant.astimezone(UTC)
        try:
            return instant.astimezone()
        except (OverflowError, ValueError, OSError):
            return instant  # at the limits of the calendar, conversion to another zone may fail
