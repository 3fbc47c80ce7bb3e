"""PostgreSQL's advisory locks: the number of each kind, and the named locks that a daemon holds.

All numbers are defined here, so that no two kinds of lock share one. An SQLite database has only one daemon, so every
lock is free there, and no statement is sent.
"""

import threading

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from tminus.storage.failures import NoAnswer
from tminus.storage.watch import PersistentConnection, Watch
from tminus.system.threads import RestartingThread

_MIGRATION = 8457290
"""Held for a transaction by a process that upgrades the schema."""

_WRITER = 8457291
"""Held by a write transaction from its first read or event to its commit, so that event numbers become visible in
order.
"""

_NAMED = 8457292
"""The seed of the hash that turns a lock's name into a number. A connection holds these locks."""

LOCK_MIGRATION = text(f"SELECT pg_advisory_xact_lock({_MIGRATION})")
TRY_LOCK_MIGRATION = text(f"SELECT pg_try_advisory_xact_lock({_MIGRATION})")

LOCK_WRITER = text(f"SELECT pg_advisory_xact_lock({_WRITER})")

_TRY_LOCK = text(f"SELECT pg_try_advisory_lock(hashtextextended(:name, {_NAMED}))")
_UNLOCK = text(f"SELECT pg_advisory_unlock(hashtextextended(:name, {_NAMED}))")
_KEEP_ALIVE = text("SELECT 1")

IDLE_LIMIT = 6
"""Seconds without a statement after which the server closes a connection that holds locks: its daemon may be frozen."""

KEEP_ALIVE_INTERVAL = 2.0
"""Seconds between the statements that keep such a connection from being idle."""


class AdvisoryLocks:
    """The advisory locks that this daemon holds, by name. Any thread.

    One connection holds them all, so they end with the daemon, however it ends. The server closes the connection of a
    frozen daemon after `IDLE_LIMIT`.

    `engine`: an engine whose connections the server closes after `IDLE_LIMIT`.
    """

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self._engine = engine
        self._watch = watch
        self._persistent = PersistentConnection(engine.execution_options(isolation_level="AUTOCOMMIT"), watch)
        self._is_shared = engine.dialect.name == "postgresql"
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._holding: Connection | None = None
        """The connection that holds the locks in `_held`."""
        self._stopping = threading.Event()
        self._thread = RestartingThread("locks", self._keep_alive)
        if self._is_shared:
            self._thread.start()

    def acquire(self, name: str) -> bool:
        """Try to lock the name; return whether this daemon holds it.

        A statement is sent each time, because a lost connection means that all locks are lost.
        """
        if not self._is_shared:
            return True
        with self._lock:
            try:
                connection = self._connection()
                with self._watch.guard(connection):
                    if name in self._held:
                        connection.execute(_KEEP_ALIVE)
                    elif connection.execute(_TRY_LOCK, {"name": name}).scalar():
                        self._held.add(name)
            except (SQLAlchemyError, NoAnswer):
                self._drop()
            return name in self._held

    def release(self, name: str) -> None:
        """Unlock the name, if this daemon holds it."""
        with self._lock:
            if name not in self._held:
                return
            try:
                connection = self._connection()
                if name in self._held:
                    with self._watch.guard(connection):
                        connection.execute(_UNLOCK, {"name": name})
            except (SQLAlchemyError, NoAnswer):
                self._drop()
            self._held.discard(name)

    def close(self) -> None:
        """Release everything and close the connection."""
        self._stopping.set()
        if self._is_shared:
            self._thread.join()
        with self._lock:
            self._drop()
        self._engine.dispose()

    def _keep_alive(self) -> None:
        """Send statements, so that the connection is not idle for `IDLE_LIMIT`.

        Lost locks are not acquired again: the caller may have just released one, and would not release it again.
        """
        while not self._stopping.wait(KEEP_ALIVE_INTERVAL):
            with self._lock:
                if not self._held:
                    continue
                try:
                    connection = self._connection()
                    with self._watch.guard(connection):
                        connection.execute(_KEEP_ALIVE)
                except (SQLAlchemyError, NoAnswer):
                    self._drop()

    def _connection(self) -> Connection:
        """Return the connection. If it is a new one, all locks of the old one are lost."""
        connection = self._persistent.get()
        if connection is not self._holding:
            self._held.clear()
            self._holding = connection
        return connection

    def _drop(self) -> None:
        self._held.clear()
        self._holding = None
        self._persistent.drop()
