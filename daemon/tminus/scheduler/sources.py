"""What has deadlines: the list that the scheduler asks. A new kind of deadline is one more entry."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from tminus.domain.types import Timeouts
from tminus.storage import Transaction, View, due
from tminus.storage.deadlines import Batch
from tminus.storage.due import Followed


class Source(Protocol):
    """Something that has deadlines of its own: a module with these functions.

    All of them run in transactions of the store, and see each other's changes in it.
    """

    def next_due(self, view: View) -> datetime | None:
        """Return the earliest deadline; None if there is none."""

    def do_due(self, tx: Transaction, timeouts: Timeouts, limit: int, until: datetime | None = None) -> Batch:
        """Do what is due at `until` (None: now), at most `limit` things, in the order of their deadlines.

        What was done must not be due any more when it returns.
        """

    def follow_timeouts(self, tx: Transaction, timeouts: Timeouts, after: str, limit: int) -> Followed:
        """Compute the next `limit` stored deadlines again; other time-outs are in force. `after`: the last id of the
        page before.
        """

    def warm_up(self, tx: Transaction, timeouts: Timeouts) -> None:
        """Do once, without effect, what would make the first `do_due` slow."""


SOURCES: Sequence[Source] = (due,)
"""Those that are asked; of two deadlines at the same instant, the one of the first source comes first."""


def next_due(view: View) -> datetime | None:
    """Return the earliest deadline of all sources; None if there is none."""
    return min((at for source in SOURCES if (at := source.next_due(view)) is not None), default=None)


def do_due(tx: Transaction, timeouts: Timeouts, limit: int) -> Batch:
    """Do one batch of what is due: of the source whose deadline is the earliest, and no further than the earliest
    deadline of the others. So the deadlines of all sources are met in their order, and none has to wait for a herd of
    another that fell due after it.
    """
    if len(SOURCES) == 1:
        return SOURCES[0].do_due(tx, timeouts, limit)
    waiting = [(at, place) for place, source in enumerate(SOURCES) if (at := source.next_due(tx)) is not None]
    waiting.sort()
    for turn, (at, place) in enumerate(waiting):
        if at > tx.now:
            break
        until = min([tx.now, *(other for other, _ in waiting[turn + 1 :])])
        batch = SOURCES[place].do_due(tx, timeouts, limit, until)
        if batch:
            batch.more = batch.more or until < tx.now
            return batch
    return Batch()
