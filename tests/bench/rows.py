"""Create databases of many sessions quickly: a daemon creates one session, and its rows are copied."""

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.daemon import Daemon
from tminus.domain import ids
from tminus.domain.types import SessionType
from tminus.storage.meta import LOG_POSITION

LEAD_MS = 600_000
"""Milliseconds before its start at which a session opens: the default of `lifecycle.lead`."""

NEW_MS = 3_600_000
"""Milliseconds for which it stays open if nobody joins: the default of `lifecycle.new_timeout`."""

_IN_A_YEAR = 31_536_000_000

_DRAWN = {
    "id": "new_id(:id_length)",
    "host_auth_token": "base62(32)",
    "host_key": "base62(32)",
    "external_session_object_id": "lower(hex(randomblob(16)))",
    # Created one after the other, in the last hours.
    "created_at": "created_at - 100 * (:number - number.n)",
    "updated_at": "updated_at - 100 * (:number - number.n)",
    # Due one second after the other, a year from now; `place` changes that.
    "start_time": "start_time + 1000 * number.n",
    "due_at": "due_at + 1000 * number.n",
    "expires_at": "expires_at + 1000 * number.n",
}


@contextlib.contextmanager
def connect(database: Path, *pragmas: str, readonly: bool = False) -> Iterator[sqlite3.Connection]:
    """Yield a connection in the driver's autocommit mode."""
    mode = "ro" if readonly else "rwc"
    connection = sqlite3.connect(f"file:{database}?mode={mode}", uri=True, isolation_level=None, timeout=30)
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        yield connection
    finally:
        connection.close()


def build(directory: Path, session_type: str, number: int) -> Path:
    """Create a state directory whose database has this number of scheduled sessions, each with its first event."""
    directory.mkdir()
    with Daemon(directory) as daemon, daemon.http() as http:
        start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + _IN_A_YEAR / 1000))
        order = {"type": session_type, "label": "Bench", "startTime": start}
        answer = http.post("/supportsessions", json=order)
        answer.raise_for_status()
        template = answer.json()["id"]
    multiply(daemon.database, template, SessionType(session_type), number)
    return directory


def multiply(path: Path, template: str, session_type: SessionType, number: int) -> None:
    """Copy the only session of a database until there are `number`. No daemon may be running."""
    with connect(path, "synchronous=OFF", "cache_size=-262144") as database:
        database.create_function("base62", 1, ids.base62)
        database.create_function("new_id", 1, _Ids())
        database.execute("BEGIN")
        _multiply(database, template, session_type.id_length, number - 1)
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class _Ids:
    """Returns different ids, as the daemon draws them: of 100,000 random ids of six characters, two are often equal."""

    def __init__(self) -> None:
        self._prefix = ids.SharedPrefix()
        self._drawn: set[str] = set()

    def __call__(self, length: int) -> str:
        first = self._prefix.take(length)
        while (drawn := first + ids.base62(length - len(first))) in self._drawn:
            pass
        self._drawn.add(drawn)
        return drawn


def _multiply(database: sqlite3.Connection, template: str, id_length: int, number: int) -> None:
    sessions = _columns(database, "session")
    values = [_DRAWN.get(column, column) for column in sessions]
    database.execute(
        f"""
        WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number LIMIT :number)
        INSERT INTO session ({", ".join(sessions)})
        SELECT {", ".join(values)} FROM number CROSS JOIN (SELECT * FROM session WHERE id = :template)
        """,
        {"number": number, "id_length": id_length, "template": template},
    )
    database.execute(
        "UPDATE session SET user_url = replace(user_url, :of, id), host_url = replace(host_url, :of, id)",
        {"of": template},
    )
    events = [column for column in _columns(database, "event") if column != "seq"]
    own = {"session_id": "s.id", "ts": "s.created_at", "start_time": "s.start_time", "expires_at": "s.expires_at"}
    database.execute(
        f"""
        INSERT INTO event ({", ".join(events)})
        SELECT {", ".join(own.get(column, f"e.{column}") for column in events)}
        FROM session AS s CROSS JOIN (SELECT * FROM event WHERE session_id = :template) AS e
        WHERE s.id <> :template ORDER BY s.rowid
        """,
        {"template": template},
    )
    # The log has these events, too. Otherwise the daemon would log all of them at its start, beside what is measured.
    database.execute(
        """
        UPDATE meta SET value = (SELECT max(seq) FROM event) || substr(value, instr(value, ' '))
        WHERE substr(key, 1, length(:log_position)) = :log_position
        """,
        {"log_position": LOG_POSITION},
    )


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in database.execute(f"PRAGMA table_info({table})")]


def place(database: Path, due: float, number: int = -1) -> int:
    """Make every scheduled session, or `number` of them, due at one time (Unix time); return it in milliseconds.

    A daemon may be running.
    """
    at = int(due * 1000)
    with connect(database, "synchronous=OFF", "cache_size=-262144") as connection:
        connection.execute(
            """
            UPDATE session SET due_at = :at, start_time = :at + :lead, expires_at = :at + :lead + :new
            WHERE rowid IN (SELECT rowid FROM session WHERE status = 'scheduled' LIMIT :number)
            """,
            {"at": at, "lead": LEAD_MS, "new": NEW_MS, "number": number},
        )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return at


def copy(directory: Path, to: Path) -> Path:
    """Copy the state directory of a stopped daemon."""
    to.mkdir()
    shutil.copy(directory / "tminus.db", to / "tminus.db")
    return to


def raw_moves(database: Path, due_ms: int) -> float:
    """Return the seconds that one `INSERT … SELECT` and one `UPDATE` take to open all due sessions: the floor."""
    with for_writing(database) as raw:
        begun = time.perf_counter()
        raw.execute("BEGIN IMMEDIATE")
        raw.execute(
            """
            INSERT INTO event (session_id, type, ts, actor, previous_status, status, start_time, expires_at, due_at,
                participants)
            SELECT id, 'session.ready', :at, 'clock', status, 'new', start_time, expires_at, due_at, 0
            FROM session WHERE due_at <= :at AND status = 'scheduled'
            """,
            {"at": due_ms},
        )
        raw.execute(
            """
            UPDATE session SET status = 'new', version = version + 1, updated_at = :at, opened_at = :at,
                due_at = expires_at, due_trigger = 'expire'
            WHERE due_at <= :at AND status = 'scheduled'
            """,
            {"at": due_ms},
        )
        raw.execute("COMMIT")
        return time.perf_counter() - begun


def raw_schedules(database: Path, together: int, seconds: float) -> float:
    """Return the sessions per second that one connection stores with their events: the floor.

    `together`: the number of sessions per transaction. They are copies of the first session and its first event.
    """
    with for_writing(database) as raw:
        session, event = first_session(raw)
        inserts = [
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"
            for table, row in (("session", session), ("event", event))
        ]
        done, begun = 0, time.perf_counter()
        while (took := time.perf_counter() - begun) < seconds:
            drawn = [ids.base62(12) for _ in range(together)]
            raw.execute("BEGIN IMMEDIATE")
            raw.executemany(inserts[0], [session | {"id": one} for one in drawn])
            raw.executemany(inserts[1], [event | {"session_id": one} for one in drawn])
            raw.execute("COMMIT")
            done += together
    return done / took


def for_writing(database: Path) -> contextlib.AbstractContextManager[sqlite3.Connection]:
    """Connect with the settings of the daemon's writer."""
    return connect(database, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16384")


def first_session(database: sqlite3.Connection) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the first session and its first event, without its number: column -> value."""
    session, event = _pattern(database, "session"), _pattern(database, "event")
    del event["seq"]
    return session, event


def insert(database: sqlite3.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows with the same columns by one statement."""
    columns = list(rows[0])
    values = ", ".join([f"({', '.join('?' * len(columns))})"] * len(rows))
    given = [value for row in rows for value in row.values()]
    database.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES {values}", given)


def _pattern(database: sqlite3.Connection, table: str) -> dict[str, Any]:
    """Return the first row of a table: column -> value."""
    found = database.execute(f"SELECT * FROM {table} ORDER BY rowid LIMIT 1")
    return dict(zip([column[0] for column in found.description], found.fetchone(), strict=True))
