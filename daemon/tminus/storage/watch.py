"""A watchdog for the database: it ends every wait for a server that does not answer. SQLite needs none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine

STUCK = 10.0
"""Seconds after which a transaction's connection is shut down although the server answers other queries."""


class Watch:
    """The watchdog of a database that always answers: SQLite. It does nothing. `ServerWatch` is that of PostgreSQL."""

    def start(self) -> None:
        """Start the watchdog's thread."""

    def stop(self) -> None:
        """Stop the thread; return when its connection is closed."""

    @property
    def generation(self) -> int:
        """A number that grows when the server stops answering or is replaced by another one. Connections from before
        the last time may be dead, or connected to a server that no longer gets the changes.
        """
        return 0

    @property
    def silent_for(self) -> float:
        """Seconds since the server stopped answering; 0 if it answers."""
        return 0.0

    def check(self) -> None:
        """Raise `NoAnswer` while the server does not answer."""

    @contextmanager
    def guard(self, connection: Any, limit: float | None = None) -> Iterator[None]:  # noqa: ARG002
        """Limit the time that the block may wait for the server.

        The connection is shut down if the server does not answer, or after `limit` seconds (None: `STUCK`). The block
        then raises SQLAlchemy's `OperationalError` with `TimedOut` as its cause.
        """
        yield


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
