"""Insert model objects as rows: many by one statement, and sessions with the deadlines that follow from time-outs.

Values are converted here, and not by SQLAlchemy, with which inserting a row takes twice as long.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Dialect, Table
from sqlmodel import SQLModel

from tminus.domain.model import Instant, JsonText
from tminus.domain.types import Timeouts
from tminus.storage.deadlines import deadline_sql
from tminus.storage.tables import EVENTS

ROWS = (400, 100, 16)
"""Numbers of rows that one statement inserts on SQLite; the last statement inserts the rest. SQLite allows 32,766
parameters.
"""


_DEADLINES = """
SELECT json_group_array(json_array(id, due_at, due_trigger)) FROM session
WHERE id IN (SELECT value FROM json_each(?))
"""
"""Returns the deadlines of sessions on SQLite, in one row: each row that is fetched releases the interpreter lock, and
taking the lock again takes longer than finding the row.
"""


class Inserted(NamedTuple):
    """The result of an insertion."""

    rows: Sequence[Sequence[Any]]
    """Of sessions the ids, deadlines and their triggers; of events on PostgreSQL the numbers; otherwise empty."""
    last_row: int
    """The number of the last row, on SQLite."""


Values = Sequence[Any]
"""The values of a row as they are stored, in the order of the columns. All of them can be written as JSON."""

Bind = Callable[[Sequence[Values]], Any]
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
    as_stored = stored_values(table, columns)
    return insert_values(connection, table, columns, [as_stored(vars(row)) for row in rows], timeouts)


def insert_values(
    connection: Connection,
    table: Table,
    columns: tuple[str, ...],
    rows: Sequence[Values],
    timeouts: Timeouts | None = None,
    *,
    returning: bool = True,
) -> Inserted:
    """Insert rows, at least one, as `insert_rows`, from values that `stored_values` has converted.

    `returning`: whether the ids and deadlines of sessions are needed.
    """
    if connection.dialect.name == "postgresql":
        statement, bind = _recordset(connection.dialect, table, columns, timeouts)
        result = connection.exec_driver_sql(statement, bind(rows))
        return Inserted(result.all() if result.returns_rows else [], 0)
    returned: Sequence[Sequence[Any]] = []
    for some in _portions(rows):
        statement, bind = _values(connection.dialect, table, columns, len(some), timeouts)
        result = connection.exec_driver_sql(statement, bind(some))
    if timeouts is not None and returning:
        ids = orjson.dumps([row[columns.index("id")] for row in rows]).decode()
        [found] = connection.exec_driver_sql(_DEADLINES, (ids,)).one()
        returned = orjson.loads(found)
    return Inserted(returned, result.lastrowid)


def _portions(rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    first = 0
    for number in ROWS:
        while len(rows) - first >= number:
            yield rows[first : first + number]
            first += number
    if first < len(rows):
        yield rows[first:]


@cache
def _values(
    dialect: Dialect, table: Table, columns: tuple[str, ...], rows: int, timeouts: Timeouts | None
) -> tuple[str, Bind]:
    """Return an insertion of several rows for SQLite.

    Each statement releases the interpreter lock, and taking the lock again takes longer than inserting a row.
    """

    def bind(rows: Sequence[Values]) -> tuple[Any, ...]:
        return tuple(chain.from_iterable(rows))

    row = f"({', '.join('?' * len(columns))})"
    given = f"VALUES {', '.join([row] * rows)}"
    name, listed = _quoted(dialect, table, columns)
    if timeouts is None:
        return f"INSERT INTO {name} ({listed}) {given}", bind
    selected = _with_deadlines(dialect, columns, timeouts)
    return f"INSERT INTO {name} ({listed}) WITH given ({listed}) AS ({given}) {selected} FROM given", bind


@cache
def _recordset(dialect: Dialect, table: Table, columns: tuple[str, ...], timeouts: Timeouts | None) -> tuple[str, Bind]:
    """Return an insertion for PostgreSQL with all rows as one value. One statement for each row takes far longer."""
    name, listed = _quoted(dialect, table, columns)
    is_json = [isinstance(table.c[column].type, JsonText) for column in columns]

    def value(row: Values) -> dict[str, Any]:
        return {
            column: orjson.Fragment(one) if json and one is not None else one
            for column, json, one in zip(columns, is_json, row, strict=True)
        }

    def bind(rows: Sequence[Values]) -> tuple[str]:
        return (orjson.dumps([value(row) for row in rows]).decode(),)

    selected, returned = f"SELECT {listed}", "RETURNING seq" if table is EVENTS else ""
    if timeouts is not None:
        selected, returned = _with_deadlines(dialect, columns, timeouts), "RETURNING id, due_at, due_trigger"
    rows = f"json_populate_recordset(NULL::{name}, %s::json) AS given"
    return f"INSERT INTO {name} ({listed}) {selected} FROM {rows} {returned}", bind


def _with_deadlines(dialect: Dialect, columns: tuple[str, ...], timeouts: Timeouts) -> str:
    """Return the SELECT clause that computes the deadlines of new sessions."""
    expressions = deadline_sql(dialect, timeouts, "given")
    quote = dialect.identifier_preparer.quote
    return f"SELECT {', '.join(expressions.get(name, quote(name)) for name in columns)}"


@cache
def stored_values(table: Table, columns: tuple[str, ...]) -> Callable[[Mapping[str, Any]], list[Any]]:
    """Return a function that converts the values of a model object to those of its row."""
    select = itemgetter(*columns)
    instants = [place for place, name in enumerate(columns) if isinstance(table.c[name].type, Instant)]
    number = Instant.number

    def values(row: Mapping[str, Any]) -> list[Any]:
        found = list(select(row))
        for place in instants:
            if found[place] is not None:
                found[place] = number(found[place])
        return found

    return values


def _quoted(dialect: Dialect, table: Table, columns: tuple[str, ...]) -> tuple[str, str]:
    """Return the quoted names of a table and of columns."""
    quote = dialect.identifier_preparer.quote
    return quote(table.name), ", ".join(map(quote, columns))
