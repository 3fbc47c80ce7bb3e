"""The open database: `read` blocks, on any thread; `submit` (a future) and `transact` (awaited) use the one writer."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, get_args

from sqlalchemy import Engine
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from tminus import clock
from tminus.clock import monotonic
from tminus.domain.errors import CannotOpenDatabase, StartupError, StoreUnavailable
from tminus.domain.types import Status
from tminus.storage import checkpoint, meta, migrate, schema, wal
from tminus.storage.data_version import DataVersion
from tminus.storage.engine import Location, make_engine, open_read_only, server, sqlite_file, startup_error
from tminus.storage.failures import DEADLOCK_DETECTED, NoAnswer, is_damage, is_unavailable, reason, sqlstate
from tminus.storage.locks import IDLE_LIMIT, AdvisoryLocks
from tminus.storage.observer import StoreObserver
from tminus.storage.reads import Reads, Unreadable
from tminus.storage.shared_clock import SharedClock
from tminus.storage.view import View
from tminus.storage.watch import STUCK, Watch
from tminus.storage.writer import SLOW, Writer

T = TypeVar("T")

Lane = Literal["requests", "clock", "search", "deliveries"]
"""A group of read connections. `clock` is for the scheduler, `search` for reads that may take long, `deliveries` for
delivery workers, `requests` for all others.
"""

DIFFERENCES = 3
"""Maximum number of differences of a schema that an error lists."""

DEAD_WITHIN = 1.0
"""Seconds. A read that loses its connection within this time is repeated: the connection was dead before it began."""

QUICK_COUNT = 0.05
"""Maximum seconds of a count that is repeated for each request. A slower count is repeated less often."""

COUNT_AGE = 30.0
"""Maximum age of a slow count in seconds. It may have been slow only because it waited for a lock."""

_GENERATION = "generation"
"""The key of `ConnectionPoolEntry.info` for the watchdog's `generation` when the connection was opened."""

NO_OBSERVER = StoreObserver()
"""The observer of commands, which need no reports."""


class Store:
    """An open database, with an upgraded schema and a running writer.

    Parameters
    ----------
    url, password
        The path of an SQLite file, or a URL of PostgreSQL. The password is not part of the URL, so that no message
        shows it.
    now
        The clock, read once per transaction. None: PostgreSQL's clock, or for SQLite this machine's.
    observer
        Receives the store's reports.

    Raises `CannotOpenDatabase`, `DatabaseCorrupt`, `DatabaseTooNew`.
    """

    def __init__(
        self,
        url: Location,
        now: Callable[[], datetime] | None,
        observer: StoreObserver = NO_OBSERVER,
        *,
        password: str | None = None,
    ) -> None:
        self._url = url
        self._observer = observer
        self._file = file = sqlite_file(url)
        left_out = None if file is None else wal.damage(file)
        if left_out is not None:
            observer.damaged(left_out)
        self._data_version = None if file is None else DataVersion(file)
        if file is not None:
            _check_schema(file)
        self._connect(partial(make_engine, url, password))
        shared = server(self._writing)
        self._has_own_clock = now is not None
        self.now = now or (clock.machine if shared is None else self._shared_clock.now)
        """Returns the time that decides what is due in this database."""
        self._watch.start()
        try:
            self.migrated_from, self.schema = migrate.upgrade(self._writing, self._watch, observer.waiting)
            if left_out is not None:
                with self._writing.begin() as connection:
                    wal.skip_lost_numbers(connection)
            self.database_id = self.read(lambda view: view.meta(meta.DATABASE_ID)) or ""
            self.version()  # opens the file now, so that the event loop never does
            if shared is not None:
                # Each lane opens its first connection now: on a full disk PostgreSQL may accept no new one.
                for engine in self._lanes.values():
                    engine.connect().close()
        except BaseException as error:
            self._dispose()  # the watchdog's thread must not stay, not even after Ctrl-C
            if isinstance(error, StoreUnavailable | SQLAlchemyError | NoAnswer):
                raise startup_error(url, error.__cause__ or error) from error
            raise
        self._notifications = None
        if observer.peer_committed is not None and shared is not None:
            from tminus.storage.listen_notify import PeerNotifications  # noqa: PLC0415 - loads psycopg, as `engine` says

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
        self.transact_then = self._writer.transact_then

    def _connect(self, make: Callable[..., Engine]) -> None:
        """Make the engines and everything that reading needs; no thread runs yet. `make` returns an engine."""
        self._shared_clock = SharedClock()
        self._reads = Reads()
        self.damage: str | None = None
        """The error with which the database reported that its file is damaged; None if it has not."""
        self._counting = threading.Lock()
        self._counts: dict[Status, int] = {}
        self._counted_at = -1, 0.0
        """The number of the newest event when sessions were counted, and when they may be counted again."""
        make = partial(make, opening=self._prepare)
        self._writing = make(writes=True, shared=self._shared_clock)
        self._locking = make(writes=True, idle_seconds=IDLE_LIMIT)
        # A pool assigns its connections to waiting threads in no order. In a common pool the scheduler could wait for
        # seconds behind many requests, and a lookup by id behind the lists of one busy agent.
        self._lanes: dict[Lane, Engine] = {lane: make(writes=False) for lane in get_args(Lane)}
        self._watch = Watch()
        if (watched := server(self._writing)) is not None:
            from tminus.storage.server_watch import ServerWatch  # noqa: PLC0415 - loads psycopg, as `engine` says

            self._watch = ServerWatch(watched, self._shared_clock)
        for engine in (self._writing, self._locking, *self._lanes.values()):
            if server(engine) is not None:
                listen(engine, "checkout", self._check_generation)

    def _prepare(self, entry: ConnectionPoolEntry) -> None:
        """Prepare an entry of a pool that is about to get a connection. Raises `NoAnswer`.

        A thread may have waited for the pool until the watchdog found that the server does not answer. It must not open
        a new connection then, because it would wait as long again.
        """
        self._watch.check()
        entry.info[_GENERATION] = self._watch.generation

    def _check_generation(self, _connection: object, entry: ConnectionPoolEntry, _proxy: object) -> None:
        """Let the pool replace a connection that is older than the server's last silence, or leads to another server.

        Raises `DisconnectionError`.
        """
        if entry.info[_GENERATION] != self._watch.generation:
            raise DisconnectionError

    @property
    def failing(self) -> str | None:
        """Why the last write failed; None if it succeeded."""
        return self._writer.failing

    @property
    def failing_since(self) -> datetime | None:
        """Since when writes have failed."""
        return self._writer.failing_since

    @property
    def silent_for(self) -> float:
        """Seconds since the database stopped answering; 0 if it answers and no write takes longer than `SLOW`."""
        writing = self._writer.writing_for
        return max(self._watch.silent_for, writing if writing > SLOW else 0.0)

    def unreadable(self) -> Unreadable | None:
        """Return why the database cannot be read; None if it can.

        The results of the last reads determine this. No query is needed, because the scheduler reads every second.
        """
        return self._reads.failure()

    @property
    def writing_for(self) -> float:
        """Seconds that the running write has taken so far; 0 if there is none."""
        return self._writer.writing_for

    @property
    def clock_difference(self) -> timedelta:
        """The time by which this machine's clock is ahead of PostgreSQL's; zero for SQLite, for small differences, and
        if another clock determines the times.
        """
        return timedelta(0) if self._has_own_clock else self._shared_clock.difference()

    @property
    def stuck(self) -> bool:
        """Whether a write has taken longer than `STUCK`. On PostgreSQL the watchdog then ends it."""
        return self._writer.writing_for > STUCK

    @property
    def waiting(self) -> int:
        """Number of waiting jobs of requests, without those of the running write."""
        return self._writer.waiting

    def version(self) -> int | None:
        """Return a number that changes with each commit of any process; None on PostgreSQL, and if it is unknown.

        What was read after the call is unchanged as long as the number is. The event loop may call this.
        """
        return None if self._data_version is None else self._data_version.read()

    @property
    def has_peers(self) -> bool:
        """Whether other daemons may use the same database: an SQLite file has only one daemon."""
        return self._file is None

    def read(self, query: Callable[[View], T], *, lane: Lane = "requests") -> T:
        """Run `query` on one snapshot, in the calling thread; return its result.

        `query` is run again if the connection was dead, or after a deadlock. `lane`: the connections to use. Raises
        `StoreUnavailable`.
        """
        begun, engine = monotonic(), self._lanes[lane]
        reading = self._reads.begin(may_be_slow=lane == "search")
        try:
            try:
                seen = self._read_once(engine, query)
            except DBAPIError as error:
                # Only a migration locks several tables, so the deadlock was with a migration, which continues now.
                dead = error.connection_invalidated and monotonic() - begun <= DEAD_WITHIN
                if not dead and sqlstate(error) != DEADLOCK_DETECTED:
                    raise
                seen = self._read_once(engine, query)
        except (SQLAlchemyError, NoAnswer) as error:
            if not is_unavailable(error):
                raise
            if is_damage(error):
                self._found_damage(error)  # perhaps only one page is damaged, so reads are not reported as failing
            else:
                self._reads.failed(reason(error), begun)
            raise StoreUnavailable from error
        finally:
            self._reads.end(reading)
        return seen

    def _read_once(self, engine: Engine, query: Callable[[View], T]) -> T:
        self._watch.check()
        with engine.connect() as connection, self._watch.guard(connection), connection.begin():
            return query(View(connection))

    def _found_damage(self, error: BaseException) -> None:
        """Store the error. Only the first one is reported, because damage does not go away."""
        was, self.damage = self.damage, reason(error)
        if was is None:
            self._observer.damaged(self.damage)

    def startup_error(self, error: StoreUnavailable) -> StartupError:
        """Return the error for a daemon that cannot start because of `error`."""
        return startup_error(self._url, error.__cause__ or error)

    def counts(self) -> dict[Status, int]:
        """Return the number of open sessions by status. Raises `StoreUnavailable`.

        Sessions are counted again only after a new event. Counting a million takes a tenth of a second. A count that
        took longer than `QUICK_COUNT` is valid for a hundred times as long, but at most for `COUNT_AGE`.
        """
        with self._counting:
            begun = monotonic()
            seq = self.read(lambda view: view.last_seq())
            if seq != self._counted_at[0] and begun >= self._counted_at[1]:
                self._counts = self.read(lambda view: view.counts())
                took = monotonic() - begun
                self._counted_at = seq, begun + (min(took * 100, COUNT_AGE) if took > QUICK_COUNT else 0)
            return dict(self._counts)

    def shorten_wal(self) -> None:
        """Empty SQLite's -wal file if it is large and no reader needs it. Does nothing on PostgreSQL."""
        if self._file is not None:
            checkpoint.shorten(self._file)

    def close(self) -> None:
        """Finish the waiting writes, then close all connections."""
        self._writer.stop()
        if self._notifications is not None:
            self._notifications.stop()
        self._locks.close()
        self._dispose()

    def _dispose(self) -> None:
        self._watch.stop()
        if self._data_version is not None:
            self._data_version.close()  # before the writer's connection, whose end empties the -wal file
        self._writing.dispose()
        for engine in self._lanes.values():
            engine.dispose()


def _check_schema(file: Path) -> None:
    """Check the schema of an SQLite file before any of its tables is used: a trigger would run with the first write.

    PostgreSQL's schema is not checked, because an administrator may add triggers for replication or an audit.

    Raises `CannotOpenDatabase`.
    """
    try:
        if not file.is_file():
            return
        with closing(open_read_only(file)) as connection:
            connection.execute("BEGIN")  # one snapshot: another process may be migrating
            known = schema.revision(connection)
            if known is None:
                wrong = schema.unexpected_objects(connection)
            else:
                wrong = schema.differences(connection, known) if migrate.is_known(known) else []
    except (OSError, sqlite3.Error):
        return  # opening the database raises the same error, which is handled there
    if wrong:
        wrong.sort(key=lambda text: not text.startswith(("trigger", "view")))  # objects that contain code come first
        more = f"; and {len(wrong) - DIFFERENCES} more" if len(wrong) > DIFFERENCES else ""
        remedy = "remove what was added (`tminus db check` lists it), or restore a backup"
        what = "its schema is not what tminus makes" if known is not None else "this is not a database of tminus"
        problem = f"{what} ({'; '.join(wrong[:DIFFERENCES])}{more}): {remedy}"
        raise CannotOpenDatabase(str(file), problem)
