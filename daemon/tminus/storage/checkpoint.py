"""The -wal file beside an SQLite database, and the database's own file: made small again.

SQLite begins the -wal file anew only when a commit finds all of it copied to the database and no reader in it. Beside
a reader of minutes it grows; after that, on a busy daemon, there may never be such a moment, and it stays as large.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from tminus.domain.errors import CannotCompact, CannotOpenDatabase, DatabaseCorrupt
from tminus.storage.engine import BUSY_TIMEOUT_MS, WAL_KEPT, Where, harden, is_damage, sqlite_file

WAIT = 0.05
"""Seconds that it may keep writers waiting until the last reader has left the file."""


def shorten(database: Path) -> bool:
    """Copies the -wal file to the database and empties it, if it is large; returns whether it did.

    While a reader needs what is in it nothing is done, and nobody waits: the next call tries again.
    """
    wal = database.with_name(f"{database.name}-wal")
    with suppress(OSError, sqlite3.OperationalError):
        if wal.stat().st_size <= WAL_KEPT:
            return False
        with closing(sqlite3.connect(database, timeout=WAIT, isolation_level=None)) as connection:
            _, frames, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if copied < frames:
                return False
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy
    return False


def compact(url: Where) -> tuple[Path, int, int]:
    """Makes the database's file as small as what is in it; returns the file, and its bytes before and after.

    The caller sees to it that no daemon runs. It is safe against a crash: until the end the old pages count.
    Raises `CannotCompact`, `CannotOpenDatabase`, `DatabaseCorrupt`.
    """
    path = sqlite_file(url)
    if path is None:
        raise CannotCompact("storage.url", "this database is PostgreSQL's: it has VACUUM (FULL)")
    if not path.is_file():
        raise CannotOpenDatabase(str(path), "there is no such file")
    before = path.stat().st_size
    room = os.statvfs(path.parent)
    if room.f_bavail * room.f_frsize < before:
        raise CannotCompact(str(path), f"needs {before / 1e6:.0f} MB free on its disk, as much as it has now")
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
