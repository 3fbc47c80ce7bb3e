"""The places of the logs: the last event that is certainly in a daemon's log.

Each daemon on a database has a log of its own, and so a place of its own, under a name that is the same after a
restart. The places are rows of `meta`, under `LOG_PLACE` and that name.
"""

from datetime import timedelta

from tminus.storage.meta import LOG_LEFT, LOG_PLACE, LogPlace
from tminus.storage.transaction import Transaction
from tminus.storage.view import View

KEPT = timedelta(days=30)
"""How long a place is kept that does not move: a container has another name at each start, and leaves one behind."""


def log_place(view: View, name: str) -> int | None:
    """Return the number of the last event in the log of this name; None if it has no place yet."""
    text = view.meta(LOG_PLACE + name)
    return None if text is None else LogPlace.parse(text).seq


def first_log_place(view: View) -> int:
    """Return the number of the event after which a log without a place begins.

    That is the place of the log that has come furthest: the events before it have been logged, and those after it may
    be in no log, if that daemon was killed. Without any log, it is the newest event.
    """
    places = [LogPlace.parse(text).seq for text in view.metas(LOG_PLACE).values()]
    if places:
        return max(places)
    left = view.meta(LOG_LEFT)
    return int(left) if left else view.last_seq()


def set_log_place(tx: Transaction, name: str, seq: int) -> None:
    """Store that the log of this name has all events up to this one."""
    tx.set_meta(LOG_PLACE + name, LogPlace(seq, tx.now).text())


def begin_log(tx: Transaction, name: str, seq: int) -> None:
    """Give a log its place, and remove the places that have not moved for `KEPT`."""
    set_log_place(tx, name, seq)
    if tx.meta(LOG_LEFT):
        tx.set_meta(LOG_LEFT, "")
    for key, text in tx.metas(LOG_PLACE).items():
        if key != LOG_PLACE + name and LogPlace.parse(text).at < tx.now - KEPT:
            tx.remove_meta(key)
