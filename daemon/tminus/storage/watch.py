"""A watchdog for PostgreSQL: ends every wait for a server that does not answer.

A stopped server, or a network that drops all packets, closes no connection. A client would wait for ever, and the
time-outs of TCP and of the server do not help while the other host's kernel still acknowledges packets. Therefore the
watchdog sends a small query every second. If there is no answer, it shuts down the sockets of all connections that wait
for one: each sees a lost connection, as if the server had gone away. No query is sent until the server answers again.

SQLite needs none of this, and nothing is done for it.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from tminus import clock
from tminus.storage.postgresql import PATIENCE, GivenUp, NoAnswer, Server, ask
from tminus.storage.shared_clock import READ, SharedClock
from tminus.system.threads import RestartingThread

INTERVAL = 1.0
"""Seconds between two queries of the watchdog."""

STUCK = 10.0
"""Seconds after which a transaction is given up although the server answers other queries."""


class Watch:
    """The watchdog of one server.

    Parameters
    ----------
    server
        None for SQLite: then nothing is done.
    shared
        Receives the server's time with each answer.
    """

    def __init__(self, server: Server | None, shared: SharedClock | None = None) -> None:
        self._server = server
        self._shared = shared
        self._waiting: dict[object, tuple[float, float, psycopg.Connection]] = {}
        """Waits in progress: until when, after how many seconds in all, and on which connection."""
        self._given_up: dict[object, float] = {}
        """Waits whose connection was shut down here, and after how many seconds."""
        self._silent_since: float | None = None
        self.silences = 0
        """How often the server has stopped answering. A connection that is older may be dead without a sign of it."""
        self._stopping = threading.Event()
        self._thread = RestartingThread("watch", self._run)

    def start(self) -> None:
        """Begin to query the server."""
        if self._server is not None:
            self._thread.start()

    def stop(self) -> None:
        """Stop, and return when the watchdog's connection is closed."""
        self._stopping.set()
        if self._server is not None:
            self._thread.join()

    @property
    def silent_for(self) -> float:
        """Seconds since the server stopped answering; 0 if it answers."""
        since = self._silent_since
        return clock.monotonic() - since if since is not None else 0.0

    def check(self) -> None:
        """Raise `NoAnswer` while the server does not answer."""
        if self._silent_since is not None:
            raise NoAnswer

    @contextmanager
    def guard(self, connection: Connection | psycopg.Connection, limit: float | None = None) -> Iterator[None]:
        """Shut down the connection if the server does not answer while the block runs, or after `limit` seconds
        (None: `STUCK`).

        The block then raises SQLAlchemy's `OperationalError` with `GivenUp` as its cause. The driver's own error says
        that the server has ended unexpectedly, and an operator would search for a crash.
        """
        if self._server is None:
            yield
            return
        raw = connection.connection.driver_connection if isinstance(connection, Connection) else connection
        assert isinstance(raw, psycopg.Connection)
        mark = object()
        limit = STUCK if limit is None else limit
        self._waiting[mark] = clock.monotonic() + limit, limit, raw
        try:
            yield
        except DBAPIError as error:
            if (seconds := self._given_up.get(mark)) is None:
                raise
            lost = error.connection_invalidated
            raise OperationalError(error.statement, None, GivenUp(seconds), connection_invalidated=lost) from error
        finally:
            del self._waiting[mark]
            self._given_up.pop(mark, None)

    # --- on its own thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._server is not None
        asking: psycopg.Connection | None = None
        while not self._stopping.wait(INTERVAL):
            begun = clock.monotonic()
            try:
                if asking is None:
                    asking = self._server.connect_unchecked(PATIENCE)
                asked = clock.monotonic()
                [[microseconds]] = ask(asking, READ, PATIENCE)
                answered = True
                if self._shared is not None:
                    self._shared.note(int(microseconds or 0), asked, clock.monotonic())
            except (psycopg.errors.ConnectionTimeout, NoAnswer):
                answered = False
            except psycopg.Error:
                answered = True  # it refuses, or is not there: every other client gets that error at once
                _close(asking)
                asking = None
            if answered:
                self._silent_since = None
            else:
                _close(asking)
                asking = None
                if self._silent_since is None:
                    self._silent_since = begun
                    self.silences += 1
            self._give_up(answered)
        _close(asking)

    def _give_up(self, answered: bool) -> None:
        """Shut down the connections that have waited too long; all of them if the server has not answered."""
        present = clock.monotonic()
        for mark, (until, limit, raw) in list(self._waiting.items()):
            if not answered or present > until:
                self._given_up[mark] = limit if present > until else PATIENCE
                _cut(raw)
                if mark not in self._waiting:  # the wait has just ended, so nothing else removes this
                    self._given_up.pop(mark, None)


class PersistentConnection:
    """A connection that stays open between two uses."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self._engine = engine
        self._watch = watch
        self._connection: Connection | None = None
        self._silences = 0

    def get(self) -> Connection:
        """Return the connection; open a new one if there is none. Raises `NoAnswer`, `SQLAlchemyError`."""
        self._watch.check()
        if self.outdated:
            self.drop()
        if self._connection is None:
            self._silences = self._watch.silences
            self._connection = self._engine.connect()
        return self._connection

    @property
    def outdated(self) -> bool:
        """Whether it was opened before the server last stopped answering."""
        return self._connection is not None and self._silences != self._watch.silences

    def drop(self) -> None:
        """Close it, whatever state it is in; the next use opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def close(self) -> None:
        """Close it, if it is open."""
        if self._connection is not None:
            self._connection.close()


def _close(connection: psycopg.Connection | None) -> None:
    if connection is not None:
        connection.close()


def _cut(connection: psycopg.Connection) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as other:
        other.shutdown(socket.SHUT_RDWR)
