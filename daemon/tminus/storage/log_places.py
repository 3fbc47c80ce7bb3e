"""How far each log has come: the last event of which a daemon knows that its log has it.

Several daemons on one database each have a log of their own, so each has a place of its own, by a name that is the same
after a restart. It is a row of `meta`: `log_at:<name>`, with the event's number and when that was written down.
"""

from datetime import timedelta

from tminus.domain import timestamps
from tminus.storage.transaction import Transaction
from tminus.storage.view import View

KEPT = timedelta(days=30)
"""How long the place of a daemon is kept that writes no more: containers have another name at each start."""

_PLACE = "log_at:"
_LEFT_AT = "log_left_at"
"""Where a stop of tminus 0.1 left events unlogged; empty if it left none."""


def log_place(view: View, name: str) -> int | None:
    """Return the last event that the log of this daemon has; None if the daemon has no place yet."""
    value = view.meta(_PLACE + name)
    return None if value is None else _seq(value)


def first_log_place(view: View) -> int:
    """Return where the log of a daemon without a place begins.

    That is where the furthest of all logs is: what is before that has been logged, and what is after it may be in no
    log, if that daemon was killed. Without any, it is the newest event.
    """
    places = [_seq(value) for value in view.metas(_PLACE).values()]
    if places:
        return max(places)
    left = view.meta(_LEFT_AT)
    return int(left) if left else view.last_seq()


def set_log_place(tx: Transaction, name: str, seq: int) -> None:
    """Write down that the log of this daemon has all events up to this one."""
    now = timestamps.milliseconds(tx.now - timestamps.EPOCH)
    tx.set_meta(_PLACE + name, f"{seq} {now}")


def begin_log(tx: Transaction, name: str, seq: int) -> None:
    """Give a daemon its place, and forget those that have not moved for long."""
    set_log_place(tx, name, seq)
    if tx.meta(_LEFT_AT):
        tx.set_meta(_LEFT_AT, "")
    old = timestamps.milliseconds(tx.now - KEPT - timestamps.EPOCH)
    for key, value in tx.metas(_PLACE).items():
        if key != _PLACE + name and int(value.partition(" ")[2]) < old:
            tx.remove_meta(key)


def _seq(value: str) -> int:
    return int(value.partition(" ")[0])
