"""Several daemons on one PostgreSQL: what one does wakes the others, and what only one may do at a time is held.

On SQLite there is one daemon to a database, so all of this holds and does nothing there.
"""

import math
import threading
import uuid
from collections.abc import Callable
from datetime import datetime

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from tminus.domain import timestamps
from tminus.storage.postgresql import NoAnswer, Server
from tminus.storage.watch import Kept, Watch
from tminus.system.threads import RestartingThread

CHANNEL = "tminus"
AGAIN = 1.0
"""Seconds after which a listener that has lost its database looks for it again."""

LEASE = 6
"""Seconds after which the server takes from a daemon what it holds if it has said nothing: it may be frozen."""

RENEWAL = 2.0
"""Seconds after which a daemon that holds something says that it is there."""

HEARD = 1.0
"""Seconds that a listener waits at a time: how long it may take to notice that it should end."""

_NOTIFY = text("SELECT pg_notify(:channel, :said)")
_HOLD = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 8457292))")
_RELEASE = text("SELECT pg_advisory_unlock(hashtextextended(:name, 8457292))")
_ALIVE = text("SELECT 1")

Heard = Callable[[datetime | None], None]
"""Called when another daemon has committed: with the earliest deadline that it set, if it set one."""


class Notices:
    """Says what this daemon commits, and hears what others commit.

    A notice is a convenience: whoever misses one looks at the tables a second later; an idle worker, five
    seconds later.
    """

    def __init__(self, server: Server, heard: Heard, watch: Watch) -> None:
        self._server = server
        self._watch = watch
        self._heard = heard
        self._me = uuid.uuid4().hex[:12]
        self._stopping = threading.Event()
        self._thread = RestartingThread("notices", self._listen)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def say(self, connection: Connection, due: datetime | None) -> None:
        """In a transaction: tells the others when it is committed."""
        said = f"{self._me} {timestamps.milliseconds(due - timestamps.EPOCH) if due is not None else ''}"
        connection.execute(_NOTIFY, {"channel": CHANNEL, "said": said})

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with (
                    self._server.connect(autocommit=True) as connection,
                    self._watch.over(connection, math.inf),
                ):
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._heard(None)  # whatever was said before it listened
                    while not self._stopping.is_set():
                        for notice in connection.notifies(timeout=HEARD, stop_after=1):
                            self._take(notice.payload)
            except (psycopg.Error, NoAnswer):
                self._stopping.wait(AGAIN)

    def _take(self, said: str) -> None:
        who, _, due = said.partition(" ")
        if who == self._me:
            return
        try:
            told = timestamps.EPOCH + int(due) * timestamps.MILLISECOND if due else None
        except (ValueError, OverflowError):
            return  # anybody may speak on this channel, and this thread hears everybody
        self._heard(told)


class AdvisoryLocks:
    """What this daemon alone may do now, by name: kept by a connection, so that it ends with the daemon, however that
    ends; and of a daemon that is frozen the server ends the connection after `LEASE`. Any thread.

    `engine`: its connections have to end when they have been idle for so long.
    """

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self._engine = engine
        self._watch = watch
        self._kept = Kept(engine.execution_options(isolation_level="AUTOCOMMIT"), watch)
        self._shared = engine.dialect.name == "postgresql"
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._holding: Connection | None = None
        """The connection whose locks `_held` names."""
        self._stopping = threading.Event()
        self._renewing = RestartingThread("holds", self._renew)
        if self._shared:
            self._renewing.start()

    def hold(self, name: str) -> bool:
        """Ask for the name; return whether this daemon holds it. Asks the database each time: a connection that was
        lost has taken everything with it.
        """
        if not self._shared:
            return True
        with self._lock:
            try:
                connection = self._connection()
                with self._watch.over(connection):
                    if name in self._held:
                        connection.execute(_ALIVE)
                    elif connection.execute(_HOLD, {"name": name}).scalar():
                        self._held.add(name)
            except (SQLAlchemyError, NoAnswer):
                self._drop()
            return name in self._held

    def release(self, name: str) -> None:
        """Let another daemon have the name."""
        with self._lock:
            if name not in self._held:
                return
            try:
                connection = self._connection()
                if name in self._held:
                    with self._watch.over(connection):
                        connection.execute(_RELEASE, {"name": name})
            except (SQLAlchemyError, NoAnswer):
                self._drop()
            self._held.discard(name)

    def close(self) -> None:
        self._stopping.set()
        if self._shared:
            self._renewing.join()
        with self._lock:
            self._drop()
        self._engine.dispose()

    def _renew(self) -> None:
        """Keep the connection from being idle for `LEASE`. Never asks for a lock: `release` may have just given it
        back, and nobody would give it back again.
        """
        while not self._stopping.wait(RENEWAL):
            with self._lock:
                if not self._held:
                    continue
                try:
                    connection = self._connection()
                    with self._watch.over(connection):
                        connection.execute(_ALIVE)
                except (SQLAlchemyError, NoAnswer):
                    self._drop()

    def _connection(self) -> Connection:
        """Return the connection. If it is another one than before, every lock has gone with the old one."""
        connection = self._kept.get()
        if connection is not self._holding:
            self._held.clear()
            self._holding = connection
        return connection

    def _drop(self) -> None:
        self._held.clear()
        self._holding = None
        self._kept.drop()
