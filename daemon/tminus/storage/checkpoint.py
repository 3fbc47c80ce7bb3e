"""Shrink SQLite's files: the -wal file while a daemon runs, the database while none runs.

SQLite reuses the -wal file from its beginning only if, at a commit, all of it has been copied to the database and no
reader needs it. The file grows while a reader runs for minutes. On a busy daemon there may never be such a commit
afterwards, and the file would stay large.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from tminus.domain.errors import CannotCompact, CannotOpenDatabase, DatabaseCorrupt
from tminus.storage.engine import BUSY_TIMEOUT_MS, WAL_KEPT, Location, harden, not_a_file, sqlite_file
from tminus.storage.failures import is_damage

WAIT = 0.05
"""Maximum seconds for which `shorten` waits for readers to finish. Writers wait meanwhile."""


def shorten(database: Path) -> bool:
    """Copy the -wal file to the database and empty it, if it is larger than `WAL_KEPT`; return whether it was emptied.

    While a reader needs its content, nothing is done; the next call tries again.
    """
    wal = database.with_name(f"{database.name}-wal")
    with suppress(OSError, sqlite3.OperationalError):
        if wal.stat().st_size <= WAL_KEPT:
            return False
        with closing(sqlite3.connect(database, timeout=WAIT, isolation_level=None)) as connection:
            harden(connection)
            _, frames, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if copied < frames:
                return False
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy
    return False


def compact(url: Location) -> tuple[Path, int, int]:
    """Shrink the database's file to its content; return the file, and its size in bytes before and after.

    The caller must make sure that no daemon runs. After a crash in the middle, the file still has its old content.
    Raises `CannotCompact`, `CannotOpenDatabase`, `DatabaseCorrupt`.
    """
    path = sqlite_file(url)
    if path is None:
        raise CannotCompact("storage.url", "this database is PostgreSQL's: it has VACUUM (FULL)")
    if problem := not_a_file(path):
        raise CannotOpenDatabase(str(path), problem)
    before = path.stat().st_size
    disk = os.statvfs(path.parent)
    if disk.f_bavail * disk.f_frsize < before:
        raise CannotCompact(str(path), f"needs {before / 1e6:.0f} MB free on its disk, the present size of the file")
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)) as connection:
            harden(connection)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        if is_damage(error):
            raise DatabaseCorrupt(str(path), f"the file is damaged ({error}): restore a backup") from error
        raise CannotCompact(str(path), f"stays as it was ({error})") from error
    return path, before, path.stat().st_size
