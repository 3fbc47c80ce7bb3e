"""Pools of connections to PostgreSQL, with the settings that the store needs."""

from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from tminus.clock import monotonic
from tminus.storage.failures import NoAnswer
from tminus.storage.postgresql import Server, query_rows
from tminus.storage.shared_clock import READ, SharedClock

POOL_TIMEOUT = 5.0
"""Seconds that a thread waits for a connection of a pool."""

_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED; " + READ


def make_engine(
    url: URL,
    *,
    size: int,
    writes: bool,
    idle_seconds: int | None,
    shared: SharedClock | None,
    opening: Callable[[ConnectionPoolEntry], None] | None,
) -> Engine:
    """Return an engine, as `engine.make_engine` does. `size`: the number of its connections."""
    engine = create_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        # All statements of one read see the same snapshot.
        isolation_level="AUTOCOMMIT" if shared else "READ COMMITTED" if writes else "REPEATABLE READ",
        json_deserializer=bytes.decode,  # psycopg would parse JSON, which tminus sends to callers as text
        hide_parameters=True,
    )

    @event.listens_for(engine, "do_connect")
    def _connect(
        _dialect: Any, entry: ConnectionPoolEntry, _arguments: Any, parameters: dict[str, Any]
    ) -> psycopg.Connection:
        if opening is not None:
            opening(entry)
        return Server(parameters, idle_seconds).connect()

    @event.listens_for(engine, "handle_error")
    def _handle(context: ExceptionContext) -> None:
        # The pool then replaces its connections: all of them may have prepared statements for the table as it was.
        context.is_disconnect |= _is_outdated_statement(context.original_exception)

    if shared is not None:

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            _begin_reading_clock(connection, shared)

    return engine


def _is_outdated_statement(error: BaseException) -> bool:
    """Return whether PostgreSQL refuses a prepared statement because a column's type was altered since.

    The error's text may be in another language, and its code stands for other errors as well.
    """
    if not isinstance(error, psycopg.errors.FeatureNotSupported):
        return False
    return error.diag.source_function == "RevalidateCachedQuery"


def _begin_reading_clock(connection: Connection, shared: SharedClock) -> None:
    """Begin a transaction and read the clock in one round trip. The driver would use a round trip for BEGIN alone."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    asked = monotonic()
    try:
        [row] = query_rows(raw, _BEGIN)
    except (psycopg.Error, NoAnswer) as error:
        if isinstance(error, NoAnswer):
            raw.close()  # a late answer would be read as the answer to the next query
        raise OperationalError(_BEGIN.decode(), None, error, connection_invalidated=raw.closed) from error
    shared.add_reading(row, asked, monotonic())
