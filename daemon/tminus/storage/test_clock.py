"""Whether a database belongs to a test clock, and the time of that clock.

A database belongs to one kind of clock for ever: times of a test clock beside real ones would have no meaning.
"""

from datetime import datetime

from tminus.storage import meta
from tminus.storage.transaction import Transaction
from tminus.storage.view import View

LOCK = "test clock"
"""The advisory lock of the one daemon that may use a test clock. Several daemons would have to follow each move."""


def read_time(view: View) -> datetime | None:
    """Return the time of the database's test clock; None if it has none."""
    stored = view.meta(meta.CLOCK)
    return None if stored in (None, meta.REAL_CLOCK) else meta.parse_instant(stored)


def begin(tx: Transaction, start: datetime) -> datetime | None:
    """Give a new database a test clock that stands at `start`. Return the time of the test clock.

    If it has a test clock already, the clock keeps its time. None: a daemon has used the database on the real clock.
    """
    if (stored := read_time(tx)) is not None:
        return stored
    if not is_new(tx):
        return None
    set_time(tx, start)
    return start


def begin_real(tx: Transaction) -> bool:
    """Bind a new database to the real clock; return False if it has a test clock."""
    if read_time(tx) is not None:
        return False
    if is_new(tx):
        tx.set_meta(meta.CLOCK, meta.REAL_CLOCK)
    return True


def set_time(tx: Transaction, instant: datetime) -> None:
    """Store the time of the test clock."""
    tx.set_meta(meta.CLOCK, meta.instant_text(instant))


def is_new(view: View) -> bool:
    """Return whether no daemon has used the database yet, so that it is bound to no clock."""
    # The first run of a daemon stores the time-outs. Releases without a test clock did so too.
    return all(view.meta(key) is None for key in (meta.CLOCK, meta.TIMEOUTS)) and view.last_seq() == 0
