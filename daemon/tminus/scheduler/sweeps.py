"""What time does: the moves that are due, and the housekeeping.

Each sweep is a function that works in bounded batches and returns what it did; a timer runs it, and so can a command.
"""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol, TypeVar

from tminus import clock
from tminus.domain.types import Timeouts
from tminus.scheduler.sources import SOURCES, do_due
from tminus.sessions.idempotency import RECORD_LIFETIME
from tminus.storage import Transaction, meta
from tminus.storage.outbox import remove_deliveries
from tminus.storage.transaction import Removed

T = TypeVar("T")

FIRST_BATCH = 128
"""Moves in the first batch of a sweep, so that the first of a herd is open within milliseconds; each batch is twice as
large as the one before, up to `LARGEST_BATCH`, while that takes no longer than `TURN`."""

SLOWEST_BATCH = 512
"""One that took long is followed by none smaller than that: what each costs whatever its size would be most of it."""

LARGEST_BATCH = 4096
"""Moves in one transaction at the most."""

TURN = 0.05
"""Seconds that a batch should take at the most, whatever the machine: a request may have to wait for one."""

REMOVALS = 256
"""Rows in the first transaction of a removal, with what goes with a session; the next are larger or smaller, as those
of a sweep are."""

SMALLEST_REMOVAL = 32
"""Rows that a transaction removes however long that takes."""


JUMP = timedelta(days=3)
"""How long after its last turn retention takes the clock for wrong: longer than a daemon is stopped over a weekend."""

HELD = timedelta(days=1)
"""How long it then removes nothing: an operator has this long to set the clock right."""


class Jobs(Protocol):
    """Where a sweep has its batches run: the store's writer."""

    def __call__(self, job: Callable[[Transaction], T], *, clock: bool = False) -> Future[T]: ...


@dataclass(slots=True)
class Sweep:
    """What one `advance` did."""

    transitions: Counter[str] = field(default_factory=Counter)
    """How many, by trigger."""
    worst_lag: timedelta = timedelta(0)
    without_pin: int = 0


def advance(submit: Jobs, timeouts: Timeouts, stop: Callable[[], bool] = lambda: False) -> Sweep:
    """Moves everything that is due, in the order in which it fell due, until nothing is or `stop` says so."""
    done = Sweep()
    limit = FIRST_BATCH
    while not stop():
        begun = clock.monotonic()
        batch = submit(partial(do_due, timeouts=timeouts, limit=limit), clock=True).result()
        done.transitions += batch.done
        done.worst_lag = max(done.worst_lag, batch.worst_lag)
        done.without_pin += batch.without_pin
        if not batch.more:
            break
        # Two daemons that share a herd wait for each other; smaller batches would not make that shorter.
        limit = _next_size(limit, clock.monotonic() - begun - batch.waited, SLOWEST_BATCH)
    return done


def prepare(submit: Jobs, timeouts: Timeouts) -> None:
    """Make the first sweep with these time-outs no slower than those after it."""
    for source in SOURCES:
        submit(partial(source.warm_up, timeouts=timeouts), clock=True).result()


def follow_timeouts(
    submit: Jobs, timeouts: Timeouts, stop: Callable[[], bool] = lambda: False, *, anew: bool = False
) -> int:
    """Bring all stored deadlines to new time-outs, if they were computed by others; return how many have changed.
    `anew`: look at all of them in any case.

    The time-outs are stored only at the end: cut off in the middle, it begins again at the next start. It is the
    clock's work: nothing is moved while it runs, so it is not refused, nor does it wait, when there are many requests.
    """
    computed_by = meta.timeouts_text(timeouts)
    if not anew and submit(lambda tx: tx.meta(meta.TIMEOUTS), clock=True).result() == computed_by:
        return 0
    changed = 0
    for source in SOURCES:
        after: str | None = ""
        while after is not None:
            if stop():
                return changed
            page = partial(source.follow_timeouts, timeouts=timeouts, after=after, limit=LARGEST_BATCH)
            followed = submit(page, clock=True).result()
            changed, after = changed + followed.changed, followed.last
    submit(lambda tx: tx.set_meta(meta.TIMEOUTS, computed_by), clock=True).result()
    return changed


@dataclass(frozen=True, slots=True)
class Held:
    """Retention removes nothing for a while: the clock may be wrong."""

    ahead: timedelta
    """How far the clock was ahead of the last turn, when that was noticed."""
    until: datetime
    begins: bool
    """Whether it was noticed just now."""


def held(tx: Transaction) -> Held | None:
    """Whether retention has to wait, and notes that it had its turn.

    A clock that jumps ahead by months would remove in minutes what has months left. Whether the clock is right, nobody
    can tell who has only that; so whatever has made the jump, nothing is removed for a day.
    """
    stored = tx.meta(meta.RETENTION)
    run = meta.RetentionRun.parse(stored) if stored else meta.RetentionRun(tx.now)
    begins = tx.now - run.at > JUMP
    if begins:
        run = meta.RetentionRun(tx.now, ahead=tx.now - run.at, held_until=tx.now + HELD)
    elif run.held_until is not None and tx.now < run.held_until <= tx.now + HELD:
        run = run._replace(at=tx.now)
    else:  # it was not held, the time is over, or the clock was set back
        run = meta.RetentionRun(tx.now)
    tx.set_meta(meta.RETENTION, run.text())
    return None if run.held_until is None else Held(run.ahead, run.held_until, begins)


def clean(
    submit: Jobs,
    retention: timedelta | None,
    delivery_retention: timedelta | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Removes sessions closed longer ago than `retention` and rows of the delivery log older than `delivery_retention`
    (None: never), and forgets what has expired otherwise.

    Returns how many sessions were removed.
    """

    def remove(some: Callable[[Transaction, int], Removed]) -> int:
        """Batch by batch, until nothing is left; each has as many rows as take no longer than `TURN`."""
        removed, rows = 0, REMOVALS
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

    remove(of_one_table(Transaction.remove_agent_sessions, timedelta(days=1)))
    remove(of_one_table(Transaction.remove_idempotency_records, RECORD_LIFETIME))
    if delivery_retention is not None:
        remove(of_one_table(remove_deliveries, delivery_retention))
    if retention is None:
        return 0
    return remove(lambda tx, rows: tx.remove_closed(tx.now - retention, rows))


def _next_size(size: int, took: float, smallest: int) -> int:
    """The size of the next batch, after one that took so many seconds."""
    if took > TURN:
        return min(max(size // 2, smallest), LARGEST_BATCH)
    return min(size * 2, LARGEST_BATCH) if took < TURN / 2 else size
