"""Copy one snapshot of an SQLite database, and check it before any of its tables is used.

A copy is read in one read transaction, which stays open until the last page. Without it, SQLite restarts the copy
whenever another process has committed: beside 250 commits a second, 200 MB were not copied within 20 s; in one
transaction they take a second. `VACUUM INTO` cannot run in a transaction, so the schema that is checked might not be
the one that is copied. The copy does not block the writer, because the database is in WAL mode; what the writer writes
meanwhile stays in the -wal file until the copy is complete.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tminus.domain.errors import CannotBackUp, CannotOpenDatabase, DatabaseCorrupt
from tminus.storage import migrate, schema
from tminus.storage.engine import harden, open_read_only
from tminus.system.privileges import acting_for

_WRITING = {
    sqlite3.SQLITE_FULL: (errno.ENOSPC, "the disk is full"),
    sqlite3.SQLITE_IOERR_WRITE: (errno.EIO, "the disk reports an error"),
    sqlite3.SQLITE_IOERR_TRUNCATE: (errno.EIO, "the disk reports an error"),
}
"""Results of SQLite that only a write can have, with the number and the text of the system's error."""

PAGES = 4096
"""Pages copied in one step: enough that a step costs little, few enough that Ctrl-C works at once."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The number of rows in a copy, and its size."""

    sessions: int
    events: int
    last_seq: int
    size: int
    """In bytes."""


@contextmanager
def open_snapshot(database: Path) -> Iterator[tuple[sqlite3.Connection, os.stat_result]]:
    """Yield a connection that reads one snapshot of a database, and the `stat` of its file.

    All files that it needs are open by then, so the caller may change to the rights of another user.
    """
    try:
        with acting_for(database.parent):
            itself = database.stat()
            source = open_read_only(database)
    except OSError as error:
        raise CannotOpenDatabase(str(database), f"cannot be read ({error.strerror})") from error
    except sqlite3.Error as error:
        raise CannotOpenDatabase(str(database), str(error)) from error
    with closing(source):
        try:
            with acting_for(database.parent):
                source.execute("BEGIN")
                source.execute("SELECT 1 FROM sqlite_master").fetchone()  # the first read begins the snapshot
                check_schema(source, database)
        except sqlite3.Error as error:
            raise database_error(database, error) from error
        yield source, itself


def check_schema(source: sqlite3.Connection, database: Path) -> None:
    """Check the schema before any table of the file is used. Raises `DatabaseCorrupt`, `DatabaseTooNew`."""
    found = schema.revision(source)
    if found is None:
        raise DatabaseCorrupt(str(database), "the file is no database of tminus")
    if not migrate.is_known(found):
        raise migrate.too_new(str(database), found)
    if wrong := schema.differences(source, found):
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DatabaseCorrupt(str(database), f"its schema is not that of tminus: {wrong[0]}{more}")


def copy_snapshot(source: sqlite3.Connection, database: Path, copy: Path) -> Contents:
    """Copy the snapshot to an empty file and check the copy; return its contents. It is not flushed to disk yet.

    Raises `OSError` if the copy cannot be written; `CannotBackUp` and `DatabaseCorrupt` are about the database.
    """
    try:
        with closing(connect_unsynced(copy)) as target:
            source.backup(target, pages=PAGES)
            source.execute("ROLLBACK")
        with closing(connect_unsynced(copy)) as connection:
            # In WAL mode a reader would have to create files beside the copy.
            connection.execute("PRAGMA journal_mode=DELETE")
            return check_contents(connection, copy)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)  # `check_contents` raises errors without a code
        if code in _WRITING:  # the database itself is only read
            raise OSError(*_WRITING[code]) from error
        raise database_error(database, error) from error


def connect_unsynced(path: Path) -> sqlite3.Connection:
    """Return a connection to a file that is used only when it is complete: without a journal and without fsync.

    The caller flushes the file at the end.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA journal_mode=OFF")
    harden(connection)
    return connection


def check_contents(connection: sqlite3.Connection, path: Path, check: str = "quick_check") -> Contents:
    """Check the structure of a database with the pragma `check`; return its contents. Raises `sqlite3.Error`."""
    found = connection.execute(f"PRAGMA {check}(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(f"malformed: {found.splitlines()[-1]}")
    sessions, events, last = connection.execute(
        "SELECT (SELECT count(*) FROM session), (SELECT count(*) FROM event), (SELECT max(seq) FROM event)"
    ).fetchone()
    return Contents(sessions, events, last or 0, path.stat().st_size)


def database_error(path: Path, error: sqlite3.Error) -> DatabaseCorrupt | CannotBackUp:
    """Return the error for a database that cannot be read or copied."""
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return DatabaseCorrupt(str(path), f"the file is damaged ({text}): `tminus db check` shows details")
    if "no such table" in text:
        return DatabaseCorrupt(str(path), f"the file is no database of tminus ({text})")
    return CannotBackUp(str(path), text)
