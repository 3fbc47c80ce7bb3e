"""Check at the start that the database belongs to the daemon's clock: the real clock or a test clock."""

from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import NamedTuple

from tminus import clock
from tminus.clock import ManualClock
from tminus.domain import timestamps
from tminus.domain.errors import StoreUnavailable, WrongClock
from tminus.logs.output import log
from tminus.storage import Store, test_clock


class TestClockStart(NamedTuple):
    """A request to run on a test clock."""

    at: datetime | None
    """Where the clock of a new database stands; None: at the present time."""


def bind_clock(store: Store, manual: ManualClock | None, start: TestClockStart | None, database: str) -> None:
    """Bind the database to the daemon's clock, and make the process use that clock.

    A test clock continues at its stored time. `database` describes the database in errors. Raises `WrongClock`, and
    another `StartupError` if a new database cannot get a test clock.
    """
    if manual is None or start is None:
        _require_real_clock(store, database)
        clock.follow(store.now)
        return
    if not store.acquire(test_clock.LOCK):
        raise WrongClock(database, "another daemon uses it on its test clock, and only one daemon can")
    try:
        time = store.submit(partial(test_clock.begin, start=manual.now())).result()
    except StoreUnavailable as error:
        raise store.startup_error(error) from error
    if time is None:
        remedy = "set STATE_DIRECTORY to an empty directory, or storage.url to an empty database"
        raise WrongClock(database, f"it was used on the real clock, so --test-clock refuses it: {remedy}")
    if start.at is not None and start.at != time:
        stands = f"its test clock stands at {timestamps.text(time)}"
        raise WrongClock(database, f"{stands}: start it with --test-clock and no time, then move the clock")
    manual.set(time)
    clock.follow(manual.now, is_test=True)
    log("clock.test", now=timestamps.text(time))


def _require_real_clock(store: Store, database: str) -> None:
    fits = True
    # If the database fails now, the daemon still starts, waits for the database, and reports that.
    with suppress(StoreUnavailable):
        if store.read(test_clock.is_new):
            fits = store.submit(test_clock.begin_real).result()
        else:
            fits = store.read(test_clock.read_time) is None
    if not fits:
        raise WrongClock(
            database, "it belongs to a test clock: start the daemon with --test-clock, or use another database"
        )
