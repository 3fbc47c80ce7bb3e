"""Timestamps in the format of the API."""

from datetime import UTC, datetime, timedelta


def from_now(**span: float) -> str:
    """Return the timestamp of now plus a `timedelta` with these arguments."""
    return text(datetime.now(UTC) + timedelta(**span))


def text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parsed(instant: str) -> datetime:
    assert instant.endswith("Z")
    return datetime.fromisoformat(instant)
