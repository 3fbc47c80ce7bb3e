"""Whether a PostgreSQL still answers, and the end of every wait for one that does not.

A server that is stopped, or a network that swallows all, closes no connection: whoever waits for an answer would wait
for ever, and neither TCP nor the server's own time-outs help where the other side's kernel still acknowledges. So the
server is asked something small each second. Does it not answer, the sockets of all who wait are shut down from here,
and each of them meets a lost connection, as when the server goes away. Nobody asks it for more until it answers again.

On SQLite nothing of this is needed, and nothing is done.
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

EACH = 1.0
"""Seconds between two questions."""

STUCK = 10.0
"""Seconds that no transaction takes: one that does, though the server answers others, is given up."""


class Watch:
    """Asks the server whether it is there; None: there is none to ask."""

    def __init__(self, server: Server | None, shared: SharedClock | None = None) -> None:
        """`shared`: each answer is read into it."""
        self._server = server
        self._shared = shared
        self._waiting: dict[object, tuple[float, float, psycopg.Connection]] = {}
        """Until when each may wait, for how many seconds in all, and for what."""
        self._given_up: dict[object, float] = {}
        """Those whose connection was shut down from here, and after how many seconds without an answer."""
        self._silent_since: float | None = None
        self.silences = 0
        """How often it has stopped answering: a connection from before that may be dead without knowing."""
        self._stopping = threading.Event()
        self._thread = RestartingThread("watch", self._run)

    def start(self) -> None:
        if self._server is not None:
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._server is not None:
            self._thread.join()

    @property
    def silent_for(self) -> float:
        """Seconds for which there has been no answer, 0 if there was one."""
        since = self._silent_since
        return clock.monotonic() - since if since is not None else 0.0

    def check(self) -> None:
        """Raises `NoAnswer` while there is no use in asking."""
        if self._silent_since is not None:
            raise NoAnswer

    @contextmanager
    def guard(self, connection: Connection | psycopg.Connection, limit: float | None = None) -> Iterator[None]:
        """What is waited for meanwhile is given up as lost if the server does not answer, or after `limit` seconds
        (None: `STUCK`).

        Raises SQLAlchemy's `OperationalError` with `GivenUp` as its cause then: the driver would report a server that
        has ended unexpectedly, and an operator would look for a crash.
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
        while not self._stopping.wait(EACH):
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
                answered = True  # it refuses, or is gone: whoever asks is told so at once
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
        """Shut down the connections of those who have waited too long; of all if the server has not answered."""
        present = clock.monotonic()
        for mark, (until, limit, raw) in list(self._waiting.items()):
            if not answered or present > until:
                self._given_up[mark] = limit if present > until else PATIENCE
                _cut(raw)
                if mark not in self._waiting:  # it has ended meanwhile, and nobody else would remove this
                    self._given_up.pop(mark, None)


class PersistentConnection:
    """A connection that is kept from one use to the next."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self._engine = engine
        self._watch = watch
        self._connection: Connection | None = None
        self._silences = 0

    def get(self) -> Connection:
        """The connection, made anew if there is none. Raises `NoAnswer`, `SQLAlchemyError`."""
        self._watch.check()
        if self.outdated:
            self.drop()
        if self._connection is None:
            self._silences = self._watch.silences
            self._connection = self._engine.connect()
        return self._connection

    @property
    def outdated(self) -> bool:
        """Whether it is from before the server was silent."""
        return self._connection is not None and self._silences != self._watch.silences

    def drop(self) -> None:
        """Whatever state it is in, the next use begins with a fresh one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _close(connection: psycopg.Connection | None) -> None:
    if connection is not None:
        connection.close()


def _cut(connection: psycopg.Connection) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as other:
        other.shutdown(socket.SHUT_RDWR)
