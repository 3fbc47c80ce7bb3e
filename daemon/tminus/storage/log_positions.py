"""The positions of logs: the last event that is certainly in a daemon's log.

Each daemon has its own log, and so its own position, under a name that is the same after a restart. The positions are
rows of `meta`; their keys are `LOG_POSITION` followed by that name.
"""

from datetime import timedelta

from tminus.storage.meta import LOG_LEFT, LOG_POSITION, LogPosition
from tminus.storage.transaction import Transaction
from tminus.storage.view import View

MAX_AGE = timedelta(days=30)
"""Age at which a position is removed. A container has another name after each start, so its old positions remain."""


def log_position(view: View, name: str) -> int | None:
    """Return the number of the last event in the log of this name; None if the log has no position yet."""
    text = view.meta(LOG_POSITION + name)
    return None if text is None else LogPosition.parse(text).seq


def first_log_position(view: View) -> int:
    """Return the number of the event after which a log without a position begins.

    This is the latest position of all logs. The events up to it have been logged; if a daemon was killed, later ones
    may be in no log. If there is no position, it is the newest event.
    """
    positions = [LogPosition.parse(text).seq for text in view.metas(LOG_POSITION).values()]
    if positions:
        return max(positions)
    left = view.meta(LOG_LEFT)
    return int(left) if left else view.last_seq()


def set_log_position(tx: Transaction, name: str, seq: int) -> None:
    """Store that the log of this name contains all events up to this one."""
    tx.set_meta(LOG_POSITION + name, LogPosition(seq, tx.now).text())


def begin_log(tx: Transaction, name: str, seq: int) -> None:
    """Store the first position of a log, and remove the positions that are older than `MAX_AGE`."""
    set_log_position(tx, name, seq)
    if tx.meta(LOG_LEFT):
        tx.set_meta(LOG_LEFT, "")
    for key, text in tx.metas(LOG_POSITION).items():
        if key != LOG_POSITION + name and LogPosition.parse(text).at < tx.now - MAX_AGE:
            tx.remove_meta(key)
