"""Instants for people: in the zone of whoever reads them, or in UTC."""

from datetime import UTC, datetime, timedelta

from tminus.domain import timestamps
from tminus.domain.durations import duration_text


class Moments:
    """Writes instants, all in one zone.

    Parameters
    ----------
    utc
        Whether in UTC; else in the local zone of the process.
    now
        The present: an instant of the same year is written without its year.
    full
        Whether for programs: with year and offset always.
    """

    def __init__(self, now: datetime, *, utc: bool, full: bool) -> None:
        self._now = now
        self._utc = utc
        self._full = full

    def text(self, instant: str | None, *, seconds: bool = False) -> str:
        """`12-01 15:30`, `2027-12-01 15:30`; for programs `2026-12-01T15:30:00+01:00`. Empty where there is none."""
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
        """What people call the zone."""
        return "UTC" if self._utc else self._here(self._now).tzname() or "local time"

    def until(self, instant: str) -> str:
        """How long until then: `1h30m`."""
        seconds = max(0, int((timestamps.parse(instant) - self._now).total_seconds()))
        return duration_text(timedelta(seconds=seconds)) if seconds else "0s"

    def _here(self, instant: datetime) -> datetime:
        if self._utc:
            return instant.astimezone(UTC)
        try:
            return instant.astimezone()
        except (OverflowError, ValueError, OSError):
            return instant  # at the ends of the calendar a zone may leave it
