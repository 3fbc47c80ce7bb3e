"""The scheduler's work: execute what is due, recompute deadlines after new time-outs, and remove old rows.

Each function works in bounded batches and returns what it did. The scheduler and `tminus advance` call them.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from tminus import clock
from tminus.config import Settings
from tminus.domain.types import Timeouts
from tminus.scheduler.sources import SOURCES, do_due
from tminus.sessions import batches, series
from tminus.sessions.idempotency import RECORD_LIFETIME
from tminus.storage import Transaction, challenges, meta
from tminus.storage import batches as stored_batches
from tminus.storage.outbox import remove_deliveries
from tminus.storage.retention import (
    Removed,
    remove_agent_sessions,
    remove_batch_records,
    remove_closed,
    remove_idempotency_records,
    remove_signin_codes,
)

T = TypeVar("T")

FIRST_BATCH = 128
"""Transitions in the first batch of a sweep. It is small, so that the first of many sessions opens within
milliseconds. While a batch takes less than half of `BATCH_TIME`, the next one is twice as large, up to `LARGEST_BATCH`.
"""

SMALLEST_BATCH = 512
"""The size below which a slow batch is not made smaller, because the fixed costs of a batch would dominate."""

LARGEST_BATCH = 4096
"""Maximum number of transitions in one transaction."""

BATCH_TIME = 0.04
"""Seconds that a batch should take at most, since a request may have to wait for it."""

FIRST_REMOVAL = 256
"""Rows in the first batch of a removal. The sizes of later batches are adapted in the same way."""

SMALLEST_REMOVAL = 32
"""The number of rows below which a slow removal is not made smaller."""

LEFTOVERS = 16
"""Maximum number of parts of batches that one transaction removes. A part may have some megabytes."""

MAX_RUN_GAP = timedelta(days=3)
"""Time since the last run of retention above which the clock may be wrong. A daemon that is stopped over a weekend
stays below it.
"""

RETENTION_PAUSE = timedelta(days=1)
"""Time for which retention then removes nothing, so that an operator can correct the clock."""


class Submit(Protocol):
    """`Store.submit`: runs a job in a write transaction."""

    def __call__(self, job: Callable[[Transaction], T], *, clock: bool = False) -> Future[T]: ...


@dataclass(slots=True)
class SweepResult:
    """The result of `do_all_due`."""

    transitions: Counter[str] = field(default_factory=Counter)
    """Trigger -> number of transitions. Also the number of reminders by outcome, of series, and of occurrences."""
    worst_lag: timedelta = timedelta(0)
    """The greatest lateness of a transition."""
    without_pin: int = 0
    """Number of sessions that could not open, since no PIN was free."""


def do_all_due(
    submit: Submit,
    timeouts: Timeouts,
    stop: Callable[[], bool] = lambda: False,
    settings: Settings | None = None,
) -> SweepResult:
    """Do everything that is due, in the order of the deadlines, until nothing is left or `stop` returns True.

    `settings`: the settings for occurrences of series; None: make no occurrences.
    """
    done = SweepResult()
    limit = FIRST_BATCH
    while not stop():
        begun = clock.monotonic()
        try:
            batch = submit(partial(do_due, timeouts=timeouts, limit=limit, settings=settings), clock=True).result()
        except series.SeriesDefect as defect:  # one series must not hold up everything else that is due
            submit(partial(series.postpone, defect=defect), clock=True).result()
            done.transitions["series"] += 1
            continue
        done.transitions += batch.done
        done.worst_lag = max(done.worst_lag, batch.worst_lag)
        done.without_pin += batch.without_pin
        if not batch.more:
            break
        # Time spent waiting for another daemon does not count, because smaller batches would not shorten it.
        limit = _next_size(limit, clock.monotonic() - begun - batch.waited, SMALLEST_BATCH)
    return done


def warm_up(submit: Submit, timeouts: Timeouts) -> None:
    """Compile the statements for these time-outs, so that the first sweep is as fast as later ones."""
    for source in SOURCES:
        submit(partial(source.warm_up, timeouts=timeouts), clock=True).result()


def recompute_deadlines(
    submit: Submit, timeouts: Timeouts, stop: Callable[[], bool] = lambda: False, *, unconditionally: bool = False
) -> int:
    """Recompute all stored deadlines if they were computed from other time-outs; return how many have changed.

    `unconditionally`: recompute them in any case. The time-outs are stored at the end, so a run that is interrupted is
    repeated at the next start. The jobs use the scheduler's queue in the writer, so that they do not wait behind
    requests: no session is opened or closed by the scheduler until they are done. Requests come between two jobs.
    """
    computed_by = meta.timeouts_text(timeouts)
    if not unconditionally and submit(lambda tx: tx.meta(meta.TIMEOUTS), clock=True).result() == computed_by:
        return 0
    changed = 0
    for source in SOURCES:
        after: str | None = ""
        limit = min(FIRST_BATCH, LARGEST_BATCH)
        while after is not None:
            if stop():
                return changed
            begun = clock.monotonic()
            page = partial(source.recompute_deadlines, timeouts=timeouts, after=after, limit=limit)
            result = submit(page, clock=True).result()
            changed, after = changed + result.changed, result.last
            limit = _next_size(limit, clock.monotonic() - begun, SMALLEST_BATCH)
    submit(lambda tx: tx.set_meta(meta.TIMEOUTS, computed_by), clock=True).result()
    return changed


class RetentionPause(NamedTuple):
    """A pause of retention, because the clock may be wrong."""

    ahead: timedelta
    """The time from the last run of retention to the start of the pause. The clock may have been set ahead by it."""
    until: datetime
    is_new: bool
    """Whether the pause begins now."""


def retention_pause(tx: Transaction) -> RetentionPause | None:
    """Return the current pause of retention, or None; store the time of this run.

    If the clock was set ahead by months, retention would remove in minutes what should be kept for months. The daemon
    cannot find out whether its clock is right. Therefore nothing is removed for a day after such a jump.
    """
    stored = tx.meta(meta.RETENTION)
    run = meta.RetentionRun.parse(stored) if stored else meta.RetentionRun(tx.now)
    is_new = tx.now - run.at > MAX_RUN_GAP
    if is_new:
        run = meta.RetentionRun(tx.now, ahead=tx.now - run.at, held_until=tx.now + RETENTION_PAUSE)
    elif run.held_until is not None and tx.now < run.held_until <= tx.now + RETENTION_PAUSE:
        run = run._replace(at=tx.now)
    else:  # there was no pause, it is over, or the clock was set back
        run = meta.RetentionRun(tx.now)
    tx.set_meta(meta.RETENTION, run.text())
    return None if run.held_until is None else RetentionPause(run.ahead, run.held_until, is_new)


def finish_batches(
    submit: Submit, settings: Settings, unfinished: Mapping[str, int], stop: Callable[[], bool] = lambda: False
) -> int:
    """Finish batches whose daemon was stopped; return for how many sessions they were not done.

    `unfinished`: id of the batch -> number of sessions that remain. Raises `StoreUnavailable`.
    """
    for batch_id in unfinished:
        do_next = partial(batches.do_next, settings=settings, batch_id=batch_id)
        while not stop() and submit(do_next).result().remaining:
            pass
    return sum(unfinished.values())


def remove_leftovers(submit: Submit, age: timedelta, stop: Callable[[], bool] = lambda: False) -> None:
    """Remove parts older than `age` of batches that were never decided."""

    def remove_some(tx: Transaction) -> int:
        return stored_batches.remove_leftovers(tx, tx.now - age, LEFTOVERS)

    while not stop() and submit(remove_some).result() == LEFTOVERS:
        pass


def remove_old(
    submit: Submit,
    retention: timedelta | None,
    delivery_retention: timedelta | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Remove old rows; return the number of removed sessions.

    These are sessions closed longer ago than `retention`, rows of the delivery log older than `delivery_retention`,
    and expired agent sessions, sign-in codes, answers to challenges and idempotency records. None: rows of that kind
    are never removed.
    """

    def remove(some: Callable[[Transaction, int], Removed]) -> int:
        """Remove batch by batch until nothing is left; return the number of removed sessions."""
        removed, rows = 0, FIRST_REMOVAL
        while not stop():
            begun = clock.monotonic()
            batch = submit(lambda tx, rows=rows: some(tx, rows)).result()  # type: ignore[misc]
            removed += batch.sessions
            if not batch.more:
                break
            rows = _next_size(rows, clock.monotonic() - begun, SMALLEST_REMOVAL)
        return removed

    def of_one_table(
        some: Callable[[Transaction, datetime, int], int], age: timedelta
    ) -> Callable[[Transaction, int], Removed]:
        def remove_some(tx: Transaction, rows: int) -> Removed:
            return Removed(0, more=some(tx, tx.now - age, rows) == rows)

        return remove_some

    remove(of_one_table(remove_agent_sessions, timedelta(days=1)))
    remove(of_one_table(remove_signin_codes, timedelta()))
    remove(of_one_table(challenges.remove_uses, timedelta()))
    remove(of_one_table(remove_idempotency_records, RECORD_LIFETIME))
    remove(of_one_table(remove_batch_records, RECORD_LIFETIME))
    remove_leftovers(submit, batches.LEFTOVER_AGE, stop)
    if delivery_retention is not None:
        remove(of_one_table(remove_deliveries, delivery_retention))
    if retention is None:
        return 0
    return remove(lambda tx, rows: remove_closed(tx, tx.now - retention, rows))


def _next_size(size: int, took: float, smallest: int) -> int:
    """Return the size of the next batch, after one of `size` that took `took` seconds."""
    if took > BATCH_TIME:
        return min(max(size // 2, smallest), LARGEST_BATCH)
    return min(size * 2, LARGEST_BATCH) if took < BATCH_TIME / 2 else size
