"""Insert model objects as rows: many by one statement, and sessions with the deadlines that follow from time-outs.

The conversion of each column is taken from SQLAlchemy once. Inserting each row through SQLAlchemy took twice as long.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Dialect, Row, Table
from sqlalchemy.types import TypeEngine
from sqlmodel import SQLModel

from tminus.domain.model import Instant, JsonText
from tminus.domain.types import Timeouts
from tminus.storage.deadlines import deadline_sql
from tminus.storage.tables import EVENTS

ROWS = 16
"""Maximum number of rows that one statement inserts on SQLite."""


class Inserted(NamedTuple):
    """The result of an insertion."""

    rows: Sequence[Row[Any]]
    """What its statements return: of sessions id and deadline, of events on PostgreSQL their numbers."""
    last_row: int
    """The number of the last row, on SQLite."""


Bind = Callable[[Sequence[SQLModel]], Any]
"""Returns the parameters of an insertion of rows."""


def insert_rows(
    connection: Connection,
    table: Table,
    columns: tuple[str, ...],
    rows: Sequence[SQLModel],
    timeouts: Timeouts | None = None,
) -> Inserted:
    """Insert rows, at least one.

    `timeouts`: the rows are sessions, and get the deadlines that follow from these time-outs.
    """
    if connection.dialect.name == "postgresql":
        statement, bind = _recordset(connection.dialect, table, columns, timeouts)
        result = connection.exec_driver_sql(statement, bind(rows))
        return Inserted(result.all() if result.returns_rows else [], 0)
    returned: list[Row[Any]] = []
    for first in range(0, len(rows), ROWS):
        some = rows[first : first + ROWS]
        statement, bind = _values(connection.dialect, table, columns, len(some), timeouts)
        result = connection.exec_driver_sql(statement, bind(some))
        if result.returns_rows:
            # At once: SQLite keeps a savepoint for each statement whose rows are not fetched. With hundreds of them,
            # each page that changes is copied for every one.
            returned += result
    return Inserted(returned, result.lastrowid)


@cache
def _values(
    dialect: Dialect, table: Table, columns: tuple[str, ...], rows: int, timeouts: Timeouts | None
) -> tuple[str, Bind]:
    """Return an insertion of several rows for SQLite.

    Each statement releases the interpreter lock, and taking the lock again takes longer than inserting a row.
    """
    binders = [(name, _binder(table.c[name].type, dialect)) for name in columns]

    def bind(rows: Sequence[SQLModel]) -> tuple[Any, ...]:
        found = map(vars, rows)
        return tuple([binder(row[name]) if binder else row[name] for row in found for name, binder in binders])

    row = f"({', '.join('?' * len(columns))})"
    given = f"VALUES {', '.join([row] * rows)}"
    name, listed = _quoted(dialect, table, columns)
    if timeouts is None:
        return f"INSERT INTO {name} ({listed}) {given}", bind
    selected, returned = _with_deadlines(dialect, columns, timeouts)
    return f"INSERT INTO {name} ({listed}) WITH given ({listed}) AS ({given}) {selected} FROM given {returned}", bind


@cache
def _recordset(dialect: Dialect, table: Table, columns: tuple[str, ...], timeouts: Timeouts | None) -> tuple[str, Bind]:
    """Return an insertion for PostgreSQL with all rows as one value: one statement a row took most of the time."""
    name, listed = _quoted(dialect, table, columns)
    binders = [(column, _in_json(table.c[column].type, dialect)) for column in columns]

    def value(row: dict[str, Any]) -> dict[str, Any]:
        return {column: binder(row[column]) if binder else row[column] for column, binder in binders}

    def bind(rows: Sequence[SQLModel]) -> tuple[str]:
        return (orjson.dumps([value(vars(row)) for row in rows]).decode(),)

    selected, returned = f"SELECT {listed}", "RETURNING seq" if table is EVENTS else ""
    if timeouts is not None:
        selected, returned = _with_deadlines(dialect, columns, timeouts)
    rows = f"json_populate_recordset(NULL::{name}, %s::json) AS given"
    return f"INSERT INTO {name} ({listed}) {selected} FROM {rows} {returned}", bind


def _with_deadlines(dialect: Dialect, columns: tuple[str, ...], timeouts: Timeouts) -> tuple[str, str]:
    """Return the clauses that select new sessions with their deadlines, and that return these."""
    expressions = deadline_sql(dialect, timeouts, "given")
    quote = dialect.identifier_preparer.quote
    return (
        f"SELECT {', '.join(expressions.get(name, quote(name)) for name in columns)}",
        "RETURNING id, due_at, due_trigger",
    )


def _binder(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """Return the function that converts a column's values for SQLite; None if they need none."""
    if isinstance(kind, Instant):  # SQLAlchemy's function calls this one through two others
        return lambda value: None if value is None else Instant.number(value)
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _in_json(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """Return the function that converts a column's values to JSON; None if they need none."""
    if isinstance(kind, Instant):
        return partial(kind.process_bind_param, dialect=dialect)
    if isinstance(kind, JsonText):
        return lambda text: None if text is None else orjson.Fragment(text)
    return None


def _quoted(dialect: Dialect, table: Table, columns: tuple[str, ...]) -> tuple[str, str]:
    """Return the quoted names of a table and of columns."""
    quote = dialect.identifier_preparer.quote
    return quote(table.name), ", ".join(map(quote, columns))
