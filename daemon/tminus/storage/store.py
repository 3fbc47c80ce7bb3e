"""The open database: `read` blocks, on any thread; `submit` (a future) and `transact` (awaited) use the one writer."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, get_args

import psycopg
from sqlalchemy import Engine
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tminus import clock
from tminus.clock import monotonic
from tminus.domain.errors import CannotOpenDatabase, StartupError, StoreUnavailable
from tminus.domain.types import Status
from tminus.storage import checkpoint, meta, migrate, schema, wal
from tminus.storage.engine import (
    Where,
    is_damage,
    is_unavailable,
    make_engine,
    open_read_only,
    reason,
    server,
    sqlite_file,
    startup_error,
)
from tminus.storage.listen_notify import PeerNotifications
from tminus.storage.locks import IDLE_LIMIT, AdvisoryLocks
from tminus.storage.observer import StoreObserver
from tminus.storage.postgresql import NoAnswer
from tminus.storage.reads import Reads, Unreadable
from tminus.storage.shared_clock import SharedClock
from tminus.storage.view import View
from tminus.storage.watch import STUCK, Watch
from tminus.storage.writer import SLOW, Writer

T = TypeVar("T")

Lane = Literal["requests", "clock", "search", "deliveries"]
"""Who reads: `search` is for what may take long, such as a list and its count; `deliveries` for webhooks."""

SHOWN = 3
"""Differences of a schema that a refusal names."""

AT_ONCE = 1.0
"""Seconds within which a read that has failed is tried again: its connection was dead before it began."""

QUICK = 0.05
"""Seconds that counting may take to be done whenever somebody asks."""

OLDEST = 30.0
"""Seconds that counts may be old, at most: that counting took long once, as it waited for a lock, means nothing later.
"""

NO_OBSERVER = StoreObserver()
"""The observer of a store whose reports nobody needs: a command's."""


class Store:
    """A database that has been brought up to date, with its writer running.

    Parameters
    ----------
    url, password
        The path of an SQLite file, or a URL of PostgreSQL; the password is kept apart so that no message shows it.
    now
        The clock; asked once a transaction. None: the database's own if it is shared, otherwise this machine's.
    observer
        What the store calls when something happens.

    Raises `CannotOpenDatabase`, `DatabaseCorrupt`, `DatabaseTooNew`.
    """

    def __init__(
        self,
        url: Where,
        now: Callable[[], datetime] | None,
        observer: StoreObserver = NO_OBSERVER,
        *,
        password: str | None = None,
    ) -> None:
        self._url = url
        self._observer = observer
        self._file = file = sqlite_file(url)
        if file is not None and (left_out := wal.damage(file)) is not None:
            observer.damaged(left_out)
        if file is not None:
            _check_schema(file)
        self._connect(partial(make_engine, url, password))
        shared = server(self._writing)
        self.now = now or (clock.machine if shared is None else self._shared_clock.now)
        """The time by which everything in this database is judged."""
        self._watch.start()
        try:
            self.migrated_from, self.schema = migrate.upgrade(self._writing, self._watch, observer.waiting)
            self.database_id = self.read(lambda view: view.meta(meta.DATABASE_ID)) or ""
        except BaseException as error:
            self._dispose()  # its thread would outlive whatever ends this, Ctrl-C too
            if isinstance(error, StoreUnavailable | SQLAlchemyError | NoAnswer):
                raise startup_error(url, error.__cause__ or error) from error
            raise
        self._notifications = None
        if observer.peer_committed is not None and shared is not None:
            self._notifications = PeerNotifications(shared, observer.peer_committed, self._watch)
            self._notifications.start()
        self._locks = AdvisoryLocks(self._locking, self._watch)
        self.acquire = self._locks.acquire
        self.release = self._locks.release
        notify = self._notifications.notify if self._notifications else None
        self._writer = Writer(self._writing, self._watch, self.now, observer, self._found_damage, notify)
        self._writer.start()
        self.submit = self._writer.submit
        self.transact = self._writer.transact

    def _connect(self, make: Callable[..., Engine]) -> None:
        """Make the engines, and all that reading needs; `make` is `make_engine` of one database. Nothing runs yet."""
        self._shared_clock = SharedClock()
        self._reads = Reads()
        self.damage: str | None = None
        """What the database said of its file when that turned out to be damaged; None as long as it has not."""
        self._counting = threading.Lock()
        self._counts: dict[Status, int] = {}
        self._counted_at = -1, 0.0
        """The newest event that the counts know of, and when they may be reckoned anew."""
        self._writing = make(writes=True, shared=self._shared_clock)
        self._locking = make(writes=True, idle_seconds=IDLE_LIMIT)
        # Readers take a connection from each other without order: the clock would wait for seconds among many, and a
        # look-up by id for the lists of one busy agent.
        self._lanes: dict[Lane, Engine] = {lane: make(writes=False) for lane in get_args(Lane)}
        self._watch = Watch(server(self._writing), self._shared_clock)
        for engine in (self._writing, self._locking, *self._lanes.values()):
            # Whoever has waited for a connection of the pool until the server was found silent makes no new one, which
            # would wait for as long again.
            listen(engine, "do_connect", self._check_server)

    def _check_server(self, *_: object) -> None:
        """Raises `NoAnswer` while the server is silent."""
        self._watch.check()

    @property
    def failing(self) -> str | None:
        """Why the last write failed, None if it did not."""
        return self._writer.failing

    @property
    def failing_since(self) -> datetime | None:
        """Since when writes fail."""
        return self._writer.failing_since

    @property
    def silent_for(self) -> float:
        """Seconds for which the database has not answered; 0 if it does, or takes no longer than it may."""
        writing = self._writer.writing_for
        return max(self._watch.silent_for, writing if writing > SLOW else 0.0)

    def unreadable(self) -> Unreadable | None:
        """Return why nothing can be read; None if it can. Asks nothing: the clock and the log read each second."""
        return self._reads.failure()

    @property
    def writing_for(self) -> float:
        """Seconds that the write under way has taken so far; 0 if there is none."""
        return self._writer.writing_for

    @property
    def clock_difference(self) -> timedelta:
        """By how much this machine's clock is ahead of the database's, if that is shared; zero if nobody need know."""
        return self._shared_clock.difference()

    @property
    def stuck(self) -> bool:
        """Whether a transaction has been on its way for longer than any is. PostgreSQL's are given up then."""
        return self._writer.writing_for > STUCK

    @property
    def waiting(self) -> int:
        """How many jobs of requests wait to be written, besides those that are being written."""
        return self._writer.waiting

    def read(self, look: Callable[[View], T], *, lane: Lane = "requests") -> T:
        """Runs `look` on one consistent view, in the calling thread; again if the connection turns out to be dead, or
        meets a deadlock.

        `lane`: each has connections that the others do not take. Raises `StoreUnavailable`.
        """
        begun, engine = monotonic(), self._lanes[lane]
        reading = self._reads.begin(patient=lane == "search")
        try:
            try:
                seen = self._look(engine, look)
            except DBAPIError as error:
                # A deadlock is with a migration, which takes one table after the other: it has gone on by now.
                dead = error.connection_invalidated and monotonic() - begun <= AT_ONCE
                if not dead and not isinstance(error.orig, psycopg.errors.DeadlockDetected):
                    raise
                seen = self._look(engine, look)
        except (SQLAlchemyError, NoAnswer) as error:
            if not is_unavailable(error):
                raise
            if is_damage(error):
                self._found_damage(error)  # of one page perhaps: others can be read
            else:
                self._reads.failed(reason(error), begun)
            raise StoreUnavailable from error
        finally:
            self._reads.end(reading)
        return seen

    def _look(self, engine: Engine, look: Callable[[View], T]) -> T:
        self._watch.check()
        with engine.connect() as connection, self._watch.guard(connection), connection.begin():
            return look(View(connection))

    def _found_damage(self, error: BaseException) -> None:
        """It does not mend itself, so it is told once, and remembered."""
        was, self.damage = self.damage, reason(error)
        if was is None:
            self._observer.damaged(self.damage)

    def cannot_start(self, error: StoreUnavailable) -> StartupError:
        """What to tell an operator who starts a daemon on a database that has just failed so."""
        return startup_error(self._url, error.__cause__ or error)

    def counts(self) -> dict[Status, int]:
        """Open sessions per status. Raises `StoreUnavailable`.

        Of a million this takes a tenth of a second. So it is reckoned anew only when something has happened, and, where
        it takes long, for no more than a hundredth of the time: the answer is then as old as that.
        """
        with self._counting:
            begun = monotonic()
            seq = self.read(lambda view: view.last_seq())
            if seq != self._counted_at[0] and begun >= self._counted_at[1]:
                self._counts = self.read(lambda view: view.counts())
                took = monotonic() - begun
                self._counted_at = seq, begun + (min(took * 100, OLDEST) if took > QUICK else 0)
            return dict(self._counts)

    def shorten_wal(self) -> None:
        """Empties SQLite's -wal file if it has grown large and nobody reads in it. PostgreSQL does so by itself."""
        if self._file is not None:
            checkpoint.shorten(self._file)

    def close(self) -> None:
        """Finishes what waits, then closes every connection."""
        self._writer.stop()
        if self._notifications is not None:
            self._notifications.stop()
        self._locks.close()
        self._dispose()

    def _dispose(self) -> None:
        self._watch.stop()
        self._writing.dispose()
        for engine in self._lanes.values():
            engine.dispose()


def _check_schema(file: Path) -> None:
    """Look at the schema of an SQLite file before anything in it is used: a trigger runs with the first write.

    PostgreSQL's is not looked at: triggers there are an administrator's own, for replication or an audit.

    Raises `CannotOpenDatabase`.
    """
    try:
        if not file.is_file():
            return
        with closing(open_read_only(file)) as connection:
            connection.execute("BEGIN")  # one state, though another process may be migrating
            known = schema.revision(connection)
            if known is None:
                wrong = schema.foreign(connection)
            else:
                wrong = schema.differences(connection, known) if migrate.is_known(known) else []
    except (OSError, sqlite3.Error):
        return  # whoever opens it next meets the same, and says what it is
    if wrong:
        wrong.sort(key=lambda text: not text.startswith(("trigger", "view")))  # what runs by itself is named first
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        way_out = "remove what was added (`tminus db check` lists it), or restore a backup"
        what = "its schema is not what tminus makes" if known is not None else "this is not a database of tminus"
        problem = f"{what} ({'; '.join(wrong[:SHOWN])}{more}): {way_out}"
        raise CannotOpenDatabase(str(file), problem)
