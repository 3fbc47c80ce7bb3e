"""Put a backup of an SQLite database in the database's place."""

import os
import secrets
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from tminus.domain.errors import CannotOpenDatabase, CannotRestore, DatabaseTooNew, TminusError
from tminus.storage import meta, migrate
from tminus.storage.backup import stamp
from tminus.storage.engine import Location, harden, make_engine, not_a_file, open_read_only, sqlite_file
from tminus.storage.partial_file import flush, partial_file
from tminus.storage.snapshot import (
    Contents,
    check_contents,
    check_schema,
    connect_unsynced,
    copy_snapshot,
    database_error,
    open_snapshot,
)
from tminus.storage.wal import continue_event_numbers
from tminus.storage.watch import Watch
from tminus.system.privileges import acting_for

HIGHEST_SEQ = 2**53
"""The highest event number that is accepted. JSON parsers may round higher numbers."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored database. `moved_to` is the new name of the old database; None if there was none."""

    path: Path
    contents: Contents
    database_id: str
    schema_before: str
    schema: str
    moved_to: Path | None


def restore(url: Location, backup: Path, now: datetime) -> Restored:
    """Put a backup in the database's place; the old database stays beside it under a dated name.

    The caller must make sure that no daemon runs (`config.lock`). Before anything is replaced, the backup is copied,
    checked and upgraded, and gets a new database id, because the same event number may now mean another event. Event
    numbers continue from the replaced database, if it can be read.

    Raises `CannotRestore`, `CannotOpenDatabase`, `DatabaseCorrupt`, `DatabaseTooNew`.
    """
    database = sqlite_file(url)
    if database is None:
        raise CannotRestore("storage.url", "this database is PostgreSQL's: put it back with pg_restore")
    if problem := not_a_file(backup):
        raise CannotOpenDatabase(str(backup), problem)
    if database.exists() and backup.samefile(database):
        raise CannotRestore(str(backup), "is the database itself")
    # If root runs this, the database's directory is read and written with the rights of its owner.
    with (
        open_snapshot(backup) as (source, _),
        acting_for(database.parent),
        partial_file(database, CannotRestore) as partial,
    ):
        copy_snapshot(source, backup, partial)
        database_id = secrets.token_hex(4)
        try:
            schema_before = _check_and_upgrade(backup, partial)
            highest = _highest_seq(database)
            with closing(connect_unsynced(partial)) as copy:
                copy.execute("PRAGMA journal_mode=DELETE")
                copy.execute("UPDATE meta SET value = ? WHERE key = ?", (database_id, meta.DATABASE_ID))
                continue_event_numbers(copy.execute, highest)
                contents = check_contents(copy, partial)
        except (sqlite3.Error, DBAPIError) as error:  # such as a disk that the upgrade has filled
            raise CannotRestore(str(database), f"cannot be written ({getattr(error, 'orig', error)})") from error
        flush(partial)
        moved_to = _move_aside(database, now)
        partial.replace(database)
    return Restored(database, contents, database_id, schema_before, migrate.head(), moved_to)


def _check_and_upgrade(backup: Path, partial: Path) -> str:
    """Check a copy completely and upgrade its schema; return the revision that it had before."""
    try:
        with closing(connect_unsynced(partial)) as copy:
            check_contents(copy, partial, "integrity_check")
            orphan = copy.execute("PRAGMA foreign_key_check").fetchone()
            if orphan:
                raise sqlite3.DatabaseError(f"malformed: row {orphan[1]} of {orphan[0]} belongs to no {orphan[2]}")
            before = copy.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise database_error(backup, error) from error
    engine = make_engine(partial, writes=True)
    try:
        migrate.upgrade(engine, Watch())
    except DatabaseTooNew as error:
        raise DatabaseTooNew(str(backup), error.problem) from None
    finally:
        engine.dispose()
    return str(before[0])


def _highest_seq(database: Path) -> int:
    """Return the highest event number that a database has ever assigned; 0 if it is unknown or implausible."""
    row = None
    if database.is_file():
        with suppress(sqlite3.Error, TminusError), closing(open_read_only(database)) as present:
            check_schema(present, database)
            row = present.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return row[0] if row and isinstance(row[0], int) and 0 <= row[0] <= HIGHEST_SEQ else 0


def _move_aside(database: Path, now: datetime) -> Path | None:
    """Give a database a second, dated name; remove the files beside it that SQLite would apply to the new database.

    The database keeps its first name until it is replaced. If it had none, a daemon that starts after a power failure
    would create an empty database. Return the dated name; None if there is no database.
    """
    wal, journal, shm = (database.with_name(f"{database.name}{end}") for end in ("-wal", "-journal", "-shm"))
    aside = None
    if database.exists():
        aside = database.with_name(f"{database.name}.{stamp(now)}")
        if aside.exists():
            raise CannotRestore(str(aside), "exists already: try again in a second")
        os.link(database, aside)
        kept = [(one, aside.with_name(aside.name + one.name.removeprefix(database.name))) for one in (wal, journal)]
        for one, name in kept:
            if one.exists():
                os.link(one, name)
        flush(database.parent)
        # After the links: SQLite discards the -wal file of a damaged database, and that may be its more valuable part.
        with suppress(sqlite3.Error), closing(sqlite3.connect(database, isolation_level=None)) as present:
            harden(present)
            present.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for one, name in kept:
            # The content of this file is in the database already. SQLite would write it over later changes.
            if name.exists() and (not name.stat().st_size or (one == journal and not journal.exists())):
                name.unlink()
    # SQLite would apply a remaining -journal to the new database.
    journal.unlink(missing_ok=True)
    wal.unlink(missing_ok=True)
    shm.unlink(missing_ok=True)
    return aside
