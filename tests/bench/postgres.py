"""A PostgreSQL server with default settings, and databases of many sessions in it."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Json

from tests.bench import rows
from tests.bench.rows import LEAD_MS, NEW_MS
from tests.support.databases import start_postgresql
from tminus.clock import now
from tminus.domain import ids
from tminus.storage import Store
from tminus.storage.listen_notify import CHANNEL

Connection = psycopg.Connection[tuple[Any, ...]]


class Postgres:
    """A server with an fsync for each commit. At the end of the context it stops, and its files are removed."""

    def __init__(self, beside: Path) -> None:
        """Start the server. `beside`: a directory on the disk to be measured.

        For root the server runs as another user, so its files need a directory of their own.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="tminus-bench-pg-", dir=beside))
        self._server = start_postgresql(self._folder)
        self._names = (f"bench_{number}" for number in count())
        self._patterns: dict[Path, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, name: str) -> str:
        """Return the URL for a configuration file."""
        return str(self._server.get_uri(name, driver="psycopg")).replace(":@", "@")

    @contextmanager
    def connect(self, name: str | None = None) -> Iterator[Connection]:
        with psycopg.connect(self._server.get_uri(name), autocommit=True) as connection:
            yield connection

    @contextmanager
    def database(self, pattern: Path | None = None) -> Iterator[str]:
        """Yield the name of a temporary database: empty, or with the rows of an SQLite database."""
        name = next(self._names)
        self._create(name, self._pattern(pattern) if pattern else None)
        if pattern is None:
            self._migrate(name)
        try:
            yield name
        finally:
            with self.connect() as admin:
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _create(self, name: str, template: str | None) -> None:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self.connect() as admin:
            admin.execute(create.format(sql.Identifier(name), sql.Identifier(template or "template0")))

    def _migrate(self, name: str) -> None:
        Store(self.url(name), now).close()

    def _pattern(self, state: Path) -> str:
        if state not in self._patterns:
            self._patterns[state] = name = next(self._names)
            self._create(name, None)
            self._migrate(name)
            with rows.connect(state / "tminus.db", readonly=True) as source, self.connect(name) as to:
                for table in ("session", "event"):
                    found = source.execute(f"SELECT * FROM {table} ORDER BY rowid")
                    columns = ", ".join(column[0] for column in found.description)
                    with to.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                        for row in found:
                            copy.write_row(row)
                to.execute("SELECT setval(pg_get_serial_sequence('event', 'seq'), (SELECT max(seq) FROM event))")
                to.execute("VACUUM ANALYZE")
        return self._patterns[state]


def place(database: Connection, due: float) -> int:
    """Make every scheduled session due at one time (Unix time), and notify the running daemons; return it in
    milliseconds.
    """
    at = int(due * 1000)
    database.execute(
        "UPDATE session SET due_at = %(at)s, start_time = %(at)s + %(lead)s, expires_at = %(at)s + %(lead)s + %(new)s",
        {"at": at, "lead": LEAD_MS, "new": NEW_MS},
    )
    database.execute("VACUUM ANALYZE session")
    database.execute("CHECKPOINT")
    database.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"bench {at}"))
    return at


_RECORD = """
INSERT INTO event (session_id, type, ts, actor, previous_status, status, start_time, expires_at, due_at, participants)
SELECT id, 'session.ready', %(at)s, 'clock', status, 'new', start_time, expires_at, due_at, 0
FROM session WHERE due_at <= %(at)s AND status = 'scheduled'
"""
_MOVE = """
UPDATE session SET status = 'new', version = version + 1, updated_at = %(at)s, opened_at = %(at)s, due_at = expires_at,
    due_trigger = 'expire'
WHERE due_at <= %(at)s AND status = 'scheduled'
"""


def raw_moves(database: Connection, due_ms: int) -> float:
    """Return the seconds that one `INSERT … SELECT` and one `UPDATE` take to open all due sessions: the floor."""
    begun = time.perf_counter()
    with database.transaction():
        database.execute(_RECORD, {"at": due_ms})
        database.execute(_MOVE, {"at": due_ms})
    return time.perf_counter() - begun


def raw_schedules(database: Connection, together: int, seconds: float) -> float:
    """Return the sessions per second that one connection stores with their events: the floor.

    `together`: the number of sessions per transaction. They are copies of the first session.
    """
    session, event = _row(database, "session"), _row(database, "event")
    inserts = [
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f'%({name})s' for name in row)})"
        for table, row in (("session", session), ("event", event))
    ]
    done, begun = 0, time.perf_counter()
    while (took := time.perf_counter() - begun) < seconds:
        drawn = [ids.base62(12) for _ in range(together)]
        with database.transaction(), database.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(1)")
            cursor.executemany(inserts[0], [session | {"id": one} for one in drawn])
            cursor.executemany(inserts[1], [event | {"session_id": one} for one in drawn])
        done += together
    return done / took


def _row(database: Connection, table: str) -> dict[str, Any]:
    """Return the first row of a table, ready to be inserted again."""
    cursor = database.cursor(row_factory=dict_row)
    row = cursor.execute(f"SELECT * FROM {table} LIMIT 1").fetchone() or {}
    row.pop("seq", None)
    return {name: Json(value) if isinstance(value, dict) else value for name, value in row.items()}


def check_opened(database: Connection, number: int) -> None:
    """Check that each session was opened once. Raises `RuntimeError`."""
    ((events, opened),) = database.execute(
        "SELECT count(*), count(DISTINCT session_id) FROM event WHERE type = 'session.ready'"
    )
    ((new,),) = database.execute("SELECT count(*) FROM session WHERE status = 'new'")
    if not opened == events == new == number:
        raise RuntimeError(
            f"of {number} sessions {new} are open, {opened} have an event, and there are {events} events"
        )
