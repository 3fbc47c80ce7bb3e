"""The sources of deadlines. To add a kind of deadline, add a module to `SOURCES`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from tminus.domain.types import Timeouts
from tminus.storage import Transaction, View, due, presence, reminders
from tminus.storage.deadlines import Batch
from tminus.storage.due import Recomputed


class Source(Protocol):
    """A source of deadlines: a module with these functions. Each runs in a transaction of the store."""

    def next_due(self, view: View) -> datetime | None:
        """Return the earliest deadline of this source; None if there is none."""

    def do_due(self, tx: Transaction, timeouts: Timeouts, limit: int, until: datetime | None = None) -> Batch:
        """Do what is due at `until` (None: now), at most `limit` items, in the order of their deadlines.

        After the transaction none of these items may be due, or the scheduler would do them again without end.
        """

    def recompute_deadlines(self, tx: Transaction, timeouts: Timeouts, after: str, limit: int) -> Recomputed:
        """Recompute the next `limit` stored deadlines, because the time-outs have changed.

        `after`: the last id of the previous page, "" for the first page.
        """

    def warm_up(self, tx: Transaction, timeouts: Timeouts) -> None:
        """Run the statements of `do_due` on no rows, so that they are compiled before the first deadline."""


SOURCES: Sequence[Source] = (due, presence, reminders)
"""All sources. If two have a deadline at the same time, the one that is first in this list is executed first."""


def next_due(view: View) -> datetime | None:
    """Return the earliest deadline of all sources; None if there is none."""
    return min((at for source in SOURCES if (at := source.next_due(view)) is not None), default=None)


def do_due(tx: Transaction, timeouts: Timeouts, limit: int) -> Batch:
    """Do one batch of what is due.

    The batch is taken from the source with the earliest deadline, and ends at the earliest deadline of the other
    sources. So deadlines are met in order across all sources, and no source delays the earlier deadlines of another.
    """
    if len(SOURCES) == 1:  # no deadlines to compare, so no query for them
        return SOURCES[0].do_due(tx, timeouts, limit)
    waiting = [(at, place) for place, source in enumerate(SOURCES) if (at := source.next_due(tx)) is not None]
    waiting.sort()
    for number, (at, place) in enumerate(waiting):
        if at > tx.now:
            break
        others = [other for other, _ in waiting[number + 1 :] if other <= tx.now]
        until = min([tx.now, *others])
        batch = SOURCES[place].do_due(tx, timeouts, limit, until)
        if batch:
            batch.more = batch.more or bool(others)
            return batch
    return Batch()
