"""The sources of deadlines. To add a kind of deadline, add its module to `SOURCES`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from tminus.config import Settings
from tminus.domain.types import Timeouts
from tminus.sessions.series import SeriesSource
from tminus.storage import Transaction, View, due, presence, reminders, series
from tminus.storage.deadlines import DueBatch
from tminus.storage.due import Recomputed


class Source(Protocol):
    """A source of deadlines: a module with these functions. Each runs in a transaction of the store."""

    def next_due(self, view: View) -> datetime | None:
        """Return the earliest deadline of this source; None if there is none."""

    def do_due(self, tx: Transaction, timeouts: Timeouts, limit: int, until: datetime | None = None) -> DueBatch:
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
"""All sources except `SeriesSource`, which needs the settings. If two sources have a deadline at the same time, the one
that is first here is executed first.
"""


def next_due(view: View) -> datetime | None:
    """Return the earliest deadline of all sources; None if there is none."""
    found = [*(source.next_due(view) for source in SOURCES), series.next_due(view)]
    return min((at for at in found if at is not None), default=None)


def do_due(tx: Transaction, timeouts: Timeouts, limit: int, settings: Settings | None = None) -> DueBatch:
    """Do one batch of what is due. `settings`: the settings for occurrences of series; None: make no occurrences.

    The batch is taken from the source with the earliest deadline, and ends at the earliest deadline of the other
    sources. So deadlines are met in order across all sources, and no source delays the earlier deadlines of another.
    Occurrences are made when nothing else is due: making them takes long, and most of them open days later.
    """
    due_series = None if settings is None else series.next_due(tx)
    has_series = due_series is not None and due_series <= tx.now
    waiting = [(at, place) for place, source in enumerate(SOURCES) if (at := source.next_due(tx)) is not None]
    waiting.sort()
    for number, (at, place) in enumerate(waiting):
        if at > tx.now:
            break
        others = [other for other, _ in waiting[number + 1 :] if other <= tx.now]
        until = min([tx.now, *others])
        batch = SOURCES[place].do_due(tx, timeouts, limit, until)
        if batch:
            batch.more = batch.more or bool(others) or has_series
            return batch
    return SeriesSource(settings).do_due(tx, timeouts, limit) if settings is not None and has_series else DueBatch()
