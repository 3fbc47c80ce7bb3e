"""Copies of an SQLite database: make one while a daemon writes, and put one back.

A copy is read in one read transaction, which stays open until the last page. Without it, SQLite begins the copy again
whenever another process has committed: 200 MB beside 250 commits a second were not copied within 20 s, and within one
transaction they take a second. `VACUUM INTO` cannot run in a transaction, so the schema would be checked in one state
of the file and copied in another. In WAL mode neither blocks the writer; what it writes meanwhile stays in the -wal
file until the copy is done.
"""

import fcntl
import os
import re
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

from tminus import clock
from tminus.domain.errors import (
    CannotBackUp,
    CannotOpenDatabase,
    CannotRestore,
    DatabaseCorrupt,
    DatabaseTooNew,
    TminusError,
)
from tminus.storage import meta, migrate, schema
from tminus.storage.engine import Where, harden, make_engine, open_read_only, sqlite_file
from tminus.storage.watch import Watch
from tminus.system.privileges import acting_for

PAGES = 4096
"""Pages copied in one step: enough that a step costs little, few enough that Ctrl-C works at once."""

HIGHEST_SEQ = 2**53
"""The highest event number that is accepted: JSON readers round higher ones, and SQLite's limit is near."""

_DATED = re.compile(r"tminus-(\d{8}T\d{6}Z)(?:-(\d{1,9}))?\.db")


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of a copy."""

    sessions: int
    events: int
    last_seq: int
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What `back_up` wrote, and the older copies that it removed."""

    path: Path
    contents: Contents
    seconds: float
    removed: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Restored:
    """What `restore` put in the database's place, and where it moved the old one (None: there was none)."""

    path: Path
    contents: Contents
    database_id: str
    schema_before: str
    schema: str
    moved_to: Path | None


def _dated(directory: Path, now: datetime) -> Path:
    """Return `tminus-20261122T101500Z.db` in a directory, or `tminus-20261122T101500Z-2.db` if that second has one."""
    names = (f"tminus-{_stamp(now)}{f'-{number}' if number > 1 else ''}.db" for number in count(1))
    return next(path for name in names if not (path := directory / name).exists())


def _age(path: Path) -> tuple[str, int] | None:
    """Return the sort key of a dated copy, oldest first; None for any other file."""
    found = _DATED.fullmatch(path.name)
    return (found[1], int(found[2] or 1)) if found else None


def _stamp(now: datetime) -> str:
    return f"{now:%Y%m%dT%H%M%SZ}"


# --- making one -------------------------------------------------------------------------------------------------------


def back_up(url: Where, target: Path, now: datetime, *, force: bool = False, keep: int | None = None) -> Backup:
    """Write a copy of one snapshot of the database to `target`, or under a dated name if that is a directory.

    The copy is written as a whole or not at all, is on disk when this returns, and is readable by its owner only.
    `force`: overwrite a file. `keep`: afterwards keep so many of the directory's dated copies, and remove the oldest.
    Raises `CannotBackUp`, `CannotOpenDatabase`, `DatabaseCorrupt`.
    """
    begun = clock.monotonic()
    database = sqlite_file(url)
    if database is None:
        raise CannotBackUp("storage.url", "this database is PostgreSQL's: back it up with pg_dump --format=custom")
    try:
        with acting_for(database.parent):
            is_there = database.is_file()
    except OSError as error:
        raise CannotOpenDatabase(str(database), f"cannot be read ({error.strerror})") from error
    if not is_there:
        raise CannotOpenDatabase(str(database), "there is no such file: there is nothing to back up")
    directory = target if target.is_dir() else None
    # Each directory is used with the rights of its owner: the database is opened before the target's rights apply.
    with _open_source(database) as (source, itself), acting_for(directory or target.parent):
        path = _dated(directory, now) if directory else target
        _check_target(path, itself, force)
        with _partial_file(path) as made:
            contents = _copied(source, database, made)
            _flush(made)
            made.replace(path)
        removed = _remove_oldest(directory, keep) if directory and keep else ()
    return Backup(path, contents, clock.monotonic() - begun, removed)


def _check_target(path: Path, database: os.stat_result, force: bool) -> None:
    try:
        if not path.parent.is_dir():
            raise CannotBackUp(str(path), "there is no such directory")
        if not path.exists():
            return
        if not path.is_file():
            raise CannotBackUp(str(path), "is no file that could be overwritten")
        if os.path.samestat(path.stat(), database):
            raise CannotBackUp(str(path), "is the database itself")
    except OSError as error:
        raise CannotBackUp(str(path), str(error.strerror)) from error
    if not force:
        raise CannotBackUp(str(path), "is there already: name another file, or overwrite it with --force")


@contextmanager
def _open_source(database: Path) -> Iterator[tuple[sqlite3.Connection, os.stat_result]]:
    """Yield a connection that sees one snapshot of a database, and the status of its file. All files are open then."""
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
                source.execute("SELECT 1 FROM sqlite_master").fetchone()  # only now is the snapshot fixed
                _check_schema(source, database)
        except sqlite3.Error as error:
            raise _database_error(database, error) from error
        yield source, itself


def _check_schema(source: sqlite3.Connection, database: Path) -> None:
    """Check the schema, before any table of the file is used. Raises `DatabaseCorrupt`, `DatabaseTooNew`."""
    found = schema.revision(source)
    if found is None:
        raise DatabaseCorrupt(str(database), "the file is no database of tminus")
    if not migrate.is_known(found):
        raise migrate.too_new(str(database), found)
    if wrong := schema.differences(source, found):
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DatabaseCorrupt(str(database), f"its schema is not that of tminus: {wrong[0]}{more}")


def _copied(source: sqlite3.Connection, database: Path, copy: Path) -> Contents:
    """Copy a database to an empty file and check the copy. It is not flushed to disk yet."""
    try:
        with closing(_written_once(copy)) as target:
            source.backup(target, pages=PAGES)
            source.execute("ROLLBACK")
        with closing(_written_once(copy)) as made:
            # In WAL mode a reader would have to write files beside it.
            made.execute("PRAGMA journal_mode=DELETE")
            return _contents(made, copy)
    except sqlite3.Error as error:
        raise _database_error(database, error) from error


def _written_once(path: Path) -> sqlite3.Connection:
    """Return a connection to a file that is not used before it is complete: no journal, and one fsync at the end."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA journal_mode=OFF")
    harden(connection)
    return connection


def _contents(made: sqlite3.Connection, path: Path, check: str = "quick_check") -> Contents:
    found = made.execute(f"PRAGMA {check}(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(f"malformed: {found.splitlines()[-1]}")
    sessions, events, last = made.execute(
        "SELECT (SELECT count(*) FROM session), (SELECT count(*) FROM event), (SELECT max(seq) FROM event)"
    ).fetchone()
    return Contents(sessions, events, last or 0, path.stat().st_size)


def _database_error(path: Path, error: sqlite3.Error) -> DatabaseCorrupt | CannotBackUp:
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return DatabaseCorrupt(str(path), f"the file is damaged ({text}): `tminus db check` says more")
    if "no such table" in text:
        return DatabaseCorrupt(str(path), f"the file is no database of tminus ({text})")
    return CannotBackUp(str(path), text)


@contextmanager
def _partial_file(path: Path, refusal: type[CannotBackUp | CannotRestore] = CannotBackUp) -> Iterator[Path]:
    """Yield a file beside `path`, for its owner only, to be flushed and renamed; remove it if that does not happen."""
    directory = path.parent
    try:
        _remove_partial_files(directory)
        descriptor, name = tempfile.mkstemp(prefix=".tminus-", suffix=".half", dir=directory)
    except OSError as error:
        raise refusal(str(path), f"cannot be written ({error.strerror})") from error
    partial = Path(name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # distinguishes it from one that a killed process left
        yield partial
        _flush(directory)
    except OSError as error:
        raise refusal(str(path), f"cannot be written ({error.strerror})") from error
    finally:
        for left in (partial, partial.with_name(f"{partial.name}-wal"), partial.with_name(f"{partial.name}-shm")):
            left.unlink(missing_ok=True)
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Flush a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_partial_files(directory: Path) -> None:
    """Remove the files that killed processes have left: each is as large as the database."""
    for left in directory.glob(".tminus-*.half"):
        with suppress(OSError):
            # In a directory such as /tmp another user may have put something else under that name, such as a pipe.
            descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left.unlink()
            finally:
                os.close(descriptor)


def _remove_oldest(directory: Path, keep: int) -> tuple[Path, ...]:
    dated = sorted((age, path) for path in directory.iterdir() if (age := _age(path)))
    oldest = [path for _, path in dated[:-keep]]
    try:
        for path in oldest:
            path.unlink()
    except OSError as error:
        raise CannotBackUp(str(path), f"the new copy is there, but this old one stays ({error.strerror})") from error
    return tuple(oldest)


# --- putting one back -------------------------------------------------------------------------------------------------


def restore(url: Where, backup: Path, now: datetime) -> Restored:
    """Put a copy in the database's place; the old database stays beside it under a dated name.

    The caller must make sure that no daemon runs (`config.lock`). Before anything is replaced the copy is checked,
    upgraded and given a new database id, because from now on an event number may mean another event. Event numbers
    continue from the replaced database, if it can be read.
    Raises `CannotRestore`, `CannotOpenDatabase`, `DatabaseCorrupt`, `DatabaseTooNew`.
    """
    database = sqlite_file(url)
    if database is None:
        raise CannotRestore("storage.url", "this database is PostgreSQL's: put it back with pg_restore")
    if not backup.is_file():
        raise CannotOpenDatabase(str(backup), "there is no such file")
    if database.exists() and backup.samefile(database):
        raise CannotRestore(str(backup), "is the database itself")
    # As root, the database's directory is read and written with the rights of its owner only.
    with (
        _open_source(backup) as (source, _),
        acting_for(database.parent),
        _partial_file(database, CannotRestore) as made,
    ):
        _copied(source, backup, made)
        schema_before = _check_and_upgrade(backup, made)
        highest = _highest_seq(database)
        with closing(_written_once(made)) as copy:
            copy.execute("PRAGMA journal_mode=DELETE")
            database_id = secrets.token_hex(4)
            copy.execute("UPDATE meta SET value = ? WHERE key = ?", (database_id, meta.DATABASE_ID))
            copy.execute("DELETE FROM sqlite_sequence WHERE name = 'event' AND seq < ?", (highest,))
            copy.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT 'event', ? "
                "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'event')",
                (highest,),
            )
            contents = _contents(copy, made)
        _flush(made)
        moved_to = _move_aside(database, now)
        made.replace(database)
    return Restored(database, contents, database_id, schema_before, migrate.head(), moved_to)


def _check_and_upgrade(backup: Path, made: Path) -> str:
    """Check a copy thoroughly and upgrade its schema; return the revision that it had."""
    try:
        with closing(_written_once(made)) as copy:
            _contents(copy, made, "integrity_check")
            orphan = copy.execute("PRAGMA foreign_key_check").fetchone()
            if orphan:
                raise sqlite3.DatabaseError(f"malformed: row {orphan[1]} of {orphan[0]} belongs to no {orphan[2]}")
            before = copy.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise _database_error(backup, error) from error
    engine = make_engine(made, writes=True)
    try:
        migrate.upgrade(engine, Watch(None))
    except DatabaseTooNew as error:
        raise DatabaseTooNew(str(backup), error.problem) from None
    finally:
        engine.dispose()
    return str(before[0])


def _highest_seq(database: Path) -> int:
    """Return the highest event number that a database has ever assigned; 0 if it cannot be read or is not plausible."""
    row = None
    if database.is_file():
        with suppress(sqlite3.Error, TminusError), closing(open_read_only(database)) as present:
            _check_schema(present, database)
            row = present.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return row[0] if row and isinstance(row[0], int) and 0 <= row[0] <= HIGHEST_SEQ else 0


def _move_aside(database: Path, now: datetime) -> Path | None:
    """Give a database a second, dated name, and remove the files beside it that SQLite would apply to its successor.

    Its first name stays until it is replaced: without it, a daemon that starts after a power cut would make an empty
    database.
    """
    wal, journal, shm = (database.with_name(f"{database.name}{end}") for end in ("-wal", "-journal", "-shm"))
    aside = None
    if database.exists():
        aside = database.with_name(f"{database.name}.{_stamp(now)}")
        if aside.exists():
            raise CannotRestore(str(aside), "is there already: try again in a second")
        os.link(database, aside)
        kept = [(one, aside.with_name(aside.name + one.name.removeprefix(database.name))) for one in (wal, journal)]
        for one, name in kept:
            if one.exists():
                os.link(one, name)
        _flush(database.parent)
        # Only now: SQLite discards the -wal file of a damaged database, which may be the more valuable part.
        with suppress(sqlite3.Error), closing(sqlite3.connect(database, isolation_level=None)) as present:
            present.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for one, name in kept:
            # It is in the database already, and would be written over later changes.
            if name.exists() and (not name.stat().st_size or (one == journal and not journal.exists())):
                name.unlink()
    # SQLite would roll the new database back to a -journal that is left.
    journal.unlink(missing_ok=True)
    wal.unlink(missing_ok=True)
    shm.unlink(missing_ok=True)
    return aside
