"""Check that an SQLite file has exactly the schema of tminus.

A schema is code: a trigger, a view, a generated column or a CHECK runs when its table is used. An attacker may have
added one to a backup, to copy secrets or to run for ever. Therefore the schema is compared, as text, with the one that
tminus creates, before any statement uses a table of the file.
"""

import json
import re
import sqlite3
from contextlib import closing
from functools import lru_cache

from sqlalchemy import create_engine

from tminus import clock
from tminus.storage import migrate

MAX_SECONDS = 10.0
"""Maximum seconds for reading a schema. The schema of tminus takes a millisecond; a slow one is an attack."""

MAX_OBJECTS = 1000
"""Maximum number of objects of a schema that are read. tminus has fewer than a hundred."""

MAX_DEFINITION = 100_000
"""Maximum bytes of a definition that SQLite parses. Those of tminus have fewer than 2,000."""

MISSING = "is missing"
"""The last words of a difference that does no harm by itself."""

_STATISTICS = {  # ANALYZE creates them, when an administrator or a maintenance job runs it
    ("table", "sqlite_stat1"): "sqlite_stat1: CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    ("table", "sqlite_stat4"): "sqlite_stat4: CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
}

_REVISION = ("table", "alembic_version")

Schema = dict[tuple[str, str], str]
"""(type, name) of an object -> the name of its table and its definition."""


def revision(connection: sqlite3.Connection) -> str | None:
    """Return the revision of a database's schema; None if it has none. Raises `sqlite3.Error`."""
    text = _read(connection).get(_REVISION)
    if text is None or text != _expected(migrate.head())[_REVISION]:
        return None  # a view of that name would run code
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(found[0]) if found else None


def differences(connection: sqlite3.Connection, known: str) -> list[str]:
    """Return the differences between a database and the schema of a known revision. Raises `sqlite3.Error`."""
    found = _read(connection)
    expected = _expected(known)
    wrong = [f"{_description(key)} {MISSING}" for key in expected if key not in found]
    for key, text in found.items():
        if key not in expected and text != _STATISTICS.get(key):
            wrong.append(f"{_description(key)} is not of tminus")
        elif key in expected and text != expected[key]:
            wrong.append(f"{_description(key)} is not as tminus makes it")
    return wrong


def unexpected_objects(connection: sqlite3.Connection) -> list[str]:
    """Return the objects of a database that has no revision and should be empty. Raises `sqlite3.Error`."""
    found = _read(connection)
    return [f"{_description(key)} is not of tminus" for key, text in found.items() if text != _STATISTICS.get(key)]


def _read(connection: sqlite3.Connection) -> Schema:
    until = clock.monotonic() + MAX_SECONDS
    before = connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_DEFINITION)
    connection.set_progress_handler(lambda: clock.monotonic() > until, 10_000)
    try:
        rows = connection.execute(
            "SELECT type, name, tbl_name, CASE WHEN length(sql) > ? THEN '' ELSE coalesce(sql, '') END "
            "FROM sqlite_master ORDER BY type, name LIMIT ?",
            (MAX_DEFINITION, MAX_OBJECTS),
        ).fetchall()
    finally:
        connection.set_progress_handler(None, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, before)
    return {(str(kind), str(name)): _normalized(str(table), str(text)) for kind, name, table, text in rows}


@lru_cache(maxsize=8)
def _expected(known: str) -> Schema:
    """Return the schema of a revision."""
    if known == migrate.head():
        with closing(sqlite3.connect(":memory:")) as raw:
            raw.executescript(migrate.new_schema())
            return _read(raw)
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            migrate.upgrade_to(connection, known)
            migrated = connection.connection.driver_connection
            assert isinstance(migrated, sqlite3.Connection)
            # Another version of Alembic may define its table in another way than the one that made these databases.
            return _read(migrated) | {_REVISION: _expected(migrate.head())[_REVISION]}
    finally:
        engine.dispose()


def _normalized(table: str, text: str) -> str:
    """Return a definition without the spaces and quotes that differ between versions of the libraries."""
    words = re.sub(r"\s+", " ", text.replace('"', ""))
    return f"{table}: {words}"


def _description(key: tuple[str, str]) -> str:
    """Return an object's type and name as printable text."""
    kind, name = (part if len(part) <= 60 else f"{part[:60]}…" for part in key)
    return f"{json.dumps(kind)[1:-1]} {json.dumps(name)}"
