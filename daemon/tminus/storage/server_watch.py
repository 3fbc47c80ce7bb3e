"""A watchdog for PostgreSQL: ends every wait for a server that does not answer.

A stopped server, or a network that drops all packets, closes no connection. A client would wait for ever. The time-outs
of TCP and of the server do not help if the other host's kernel still acknowledges packets. Therefore the watchdog sends
a small query every second. If there is no answer, it shuts down the sockets of all waiting connections, which then fail
as if the server had closed them. Until the server answers again, nothing else is sent to it.

The server may also be replaced while its connections stay open: it becomes read-only, and another one accepts writes.
Then the watchdog and the writer open new connections. If another server answers, the daemon also replaces all other
connections: those who read from the old server would not see what is written now.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from tminus import clock
from tminus.storage.failures import NoAnswer, TimedOut
from tminus.storage.postgresql import ANSWER_TIMEOUT, Server, query_rows
from tminus.storage.shared_clock import READ, SharedClock
from tminus.storage.watch import STUCK, Watch
from tminus.system.threads import RestartingThread

INTERVAL = 1.0
"""Seconds between two queries of the watchdog."""

_QUESTION = READ + b", current_setting('transaction_read_only')"


class ServerWatch(Watch):
    """The watchdog of one server.

    Parameters
    ----------
    server
        The server to watch.
    shared
        Receives the server's time with each answer.
    """

    def __init__(self, server: Server, shared: SharedClock | None = None) -> None:
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
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def generation(self) -> int:
        return self.silences + (self._shared.switches if self._shared is not None else 0)

    @property
    def silent_for(self) -> float:
        since = self._silent_since
        return clock.monotonic() - since if since is not None else 0.0

    def check(self) -> None:
        if self._silent_since is not None:
            raise NoAnswer

    @contextmanager
    def guard(self, connection: Connection | psycopg.Connection, limit: float | None = None) -> Iterator[None]:
        # The driver's own error would mean that the server has ended unexpectedly, and an operator would search for a
        # crash.
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


def _close(connection: psycopg.Connection | None) -> None:
    if connection is not None:
        connection.close()


def _shut_down(connection: psycopg.Connection) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as other:
        other.shutdown(socket.SHUT_RDWR)
