"""Read and change the rows of a daemon's database directly, in the same way on SQLite and PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from tests.acceptance.daemons import Daemon
from tminus.storage.tables import EVENTS, SESSIONS


@contextmanager
def tables_of(daemon: Daemon) -> Iterator[Connection]:
    """Return a connection in autocommit mode."""
    engine = create_engine(daemon.database, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def multiply(tables: Connection, template: str, number: int) -> None:
    """Copy one scheduled session a number of times, each with its first event. They fall due one millisecond after the
    other. No daemon may be running.
    """
    new = {
        "id": "'Herd' || CAST(10000000 + number.n AS TEXT)",
        "due_at": "s.due_at + number.n",
        "start_time": "s.start_time + number.n",
        "expires_at": "s.expires_at + number.n",
    }
    columns = SESSIONS.columns.keys()
    tables.execute(
        text(
            "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :most) "
            f"INSERT INTO session ({', '.join(columns)}) "
            f"SELECT {', '.join(new.get(name, f's.{name}') for name in columns)} "
            "FROM number CROSS JOIN session AS s WHERE s.id = :template"
        ),
        {"most": number - 1, "template": template},
    )
    of_session = {"session_id": "s.id", "start_time": "s.start_time", "expires_at": "s.expires_at"}
    columns = [name for name in EVENTS.columns.keys() if name != "seq"]  # noqa: SIM118 - these are columns, by name
    tables.execute(
        text(
            f"INSERT INTO event ({', '.join(columns)}) "
            f"SELECT {', '.join(of_session.get(name, f'e.{name}') for name in columns)} "
            "FROM session AS s CROSS JOIN event AS e WHERE e.session_id = :template AND s.id <> :template ORDER BY s.id"
        ),
        {"template": template},
    )
