"""A watchdog for PostgreSQL: ends every wait for a server that does not answer.

A stopped server, or a network that drops all packets, closes no connection. A client would wait for ever. The time-outs
of TCP and of the server do not help if the other host's kernel still acknowledges packets. Therefore the watchdog sends
a small query every second. If there is no answer, it shuts down the sockets of all waiting connections, which then fail
as if the server had closed them. Until the server answers again, nothing else is sent to it.

The server may also be replaced while its connections stay open: it becomes read-only, and another one accepts writes.
Then the watchdog and the writer open new connections. If another server answers, the daemon also replaces all other
connections: those who read from the old server would not see what is written now.

SQLite needs no watchdog, and nothing is done for it.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from tminus import clock
from tminus.storage.postgresql import ANSWER_TIMEOUT, NoAnswer, Server, TimedOut, query_rows
from tminus.storage.shared_clock import READ, SharedClock
from tminus.system.threads import RestartingThread

INTERVAL = 1.0
"""Seconds between two queries of the watchdog."""

_QUESTION = READ + b", current_setting('transaction_read_only')"

STUCK = 10.0
"""Seconds after which a transaction's connection is shut down although the server answers other queries."""


class Watch:
    """The watchdog of one server.

    Parameters
    ----------
    server
        The server to watch. None for SQLite: then nothing is done.
    shared
        Receives the server's time with each answer.
    """

    def __init__(self, server: Server | None, shared: SharedClock | None = None) -> None:
        self._server = server
        self._shared = shared
        self._waiting: dict[object, tuple[float, float, psycopg.Connection]] = {}
        """A running wait -> when it times out, on the monotonic clock; its limit in seconds; its connection."""
        self._timed_out: dict[object, float] = {}
        """A wait whose connection was shut down here -> after how many seconds."""
        self._silent_since: float | None = None
        """When the server stopped answering, on the monotonic clock; None if it answers."""
        self.silences = 0
        """Number of times that the server has stopped answering."""
        self._stopping = threading.Event()
        self._thread = RestartingThread("watch", self._run)

    def start(self) -> None:
        """Start the watchdog's thread."""
        if self._server is not None:
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread; return when its connection is closed."""
        self._stopping.set()
        if self._server is not None:
            self._thread.join()

    @property
    def generation(self) -> int:
        """A number that grows when the server stops answering or is replaced by another one. Connections from before
        the last time may be dead, or connected to a server that no longer gets the changes.
        """
        return self.silences + (self._shared.switches if self._shared is not None else 0)

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
        """Limit the time that the block may wait for the server.

        The connection is shut down if the server does not answer, or after `limit` seconds (None: `STUCK`). The block
        then raises SQLAlchemy's `OperationalError` with `TimedOut` as its cause. The driver's own error would mean that
        the server has ended unexpectedly, and an operator would search for a crash.
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
            if (seconds := self._timed_out.get(mark)) is None:
                raise
            lost = error.connection_invalidated
            raise OperationalError(error.statement, None, TimedOut(seconds), connection_invalidated=lost) from error
        finally:
            del self._waiting[mark]
            self._timed_out.pop(mark, None)

    # --- on its own thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._server is not None
        connection: psycopg.Connection | None = None
        generation = 0
        while not self._stopping.wait(INTERVAL):
            begun = clock.monotonic()
            if generation != self.generation:
                _close(connection)
                connection = None
            try:
                if connection is None:
                    generation = self.generation
                    connection = self._server.connect_unchecked(ANSWER_TIMEOUT)
                answered = True
                if self._ask(connection):
                    _close(connection)
                    connection = None
            except (psycopg.errors.ConnectionTimeout, NoAnswer):
                answered = False
            except psycopg.Error:
                answered = True  # it refuses connections: every other client gets that error at once and does not wait
                _close(connection)
                connection = None
            if answered:
                self._silent_since = None
            else:
                _close(connection)
                connection = None
                if self._silent_since is None:
                    self._silent_since = begun
                    self.silences += 1
            self._end_waits(answered)
        _close(connection)

    def _ask(self, connection: psycopg.Connection) -> bool:
        """Send the query. Return whether the server is read-only, so that another one may have taken its place."""
        asked = clock.monotonic()
        [[*row, read_only]] = query_rows(connection, _QUESTION, ANSWER_TIMEOUT)
        if self._shared is not None:
            self._shared.add_reading(row, asked, clock.monotonic())
        return read_only == "on"

    def _end_waits(self, answered: bool) -> None:
        """Shut down the connections that have waited too long, or all of them if the server has not answered."""
        present = clock.monotonic()
        for mark, (until, limit, raw) in list(self._waiting.items()):
            if not answered or present > until:
                self._timed_out[mark] = limit if present > until else ANSWER_TIMEOUT
                _shut_down(raw)
                if mark not in self._waiting:  # the wait has just ended, so nothing else removes this entry
                    self._timed_out.pop(mark, None)


class PersistentConnection:
    """A connection that stays open between uses.

    `opened`: called with each new connection.
    """

    def __init__(self, engine: Engine, watch: Watch, opened: Callable[[Connection], None] = lambda _: None) -> None:
        self._engine = engine
        self._watch = watch
        self._opened = opened
        self._connection: Connection | None = None
        self._generation = 0

    def get(self) -> Connection:
        """Return the connection; open a new one if there is none. Raises `NoAnswer`, `SQLAlchemyError`."""
        self._watch.check()
        if self.outdated:
            self.drop()
        if self._connection is None:
            self._generation = self._watch.generation
            self._connection = self._engine.connect()
            self._opened(self._connection)
        return self._connection

    @property
    def outdated(self) -> bool:
        """Whether the connection was opened before the server last stopped answering or was replaced."""
        return self._connection is not None and self._generation != self._watch.generation

    def drop(self) -> None:
        """Close the connection, even if it is broken; the next use opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._connection is not None:
            self._connection.close()


def _close(connection: psycopg.Connection | None) -> None:
    if connection is not None:
        connection.close()


def _shut_down(connection: psycopg.Connection) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as other:
        other.shutdown(socket.SHUT_RDWR)
