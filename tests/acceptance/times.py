"""Instants as the wire has them."""

from datetime import UTC, datetime, timedelta


def from_now(**span: float) -> str:
    """An instant that far from now, as JavaScript writes it."""
    return text(datetime.now(UTC) + timedelta(**span))


def text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parsed(instant: str) -> datetime:
    assert instant.endswith("Z")
    return datetime.fromisoformat(instant)
