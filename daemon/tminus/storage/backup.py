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
from tminus.storage.engine import Where, harden, look_at, make_engine, sqlite_file
from tminus.storage.watch import Watch
from tminus.system.privileges import acting_for

PAGES = 4096
"""Pages copied in one step: so many that steps cost nothing, so few that Ctrl-C is heard."""

HIGHEST_SEQ = 2**53
"""Event numbers beyond are not of tminus: JSON readers round them, and SQLite's own end is near."""

_DATED = re.compile(r"tminus-(\d{8}T\d{6}Z)(?:-(\d{1,9}))?\.db")


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a copy."""

    sessions: int
    events: int
    last_seq: int
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What `back_up` wrote, and which older ones it removed."""

    path: Path
    contents: Contents
    seconds: float
    removed: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Restored:
    """What `restore` put in the database's place, and where it put what had been there (None: there was nothing)."""

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
    """Return what sorts dated copies, the oldest first; None for any other file."""
    found = _DATED.fullmatch(path.name)
    return (found[1], int(found[2] or 1)) if found else None


def _stamp(now: datetime) -> str:
    return f"{now:%Y%m%dT%H%M%SZ}"


# --- making one -------------------------------------------------------------------------------------------------------


def back_up(url: Where, target: Path, now: datetime, *, force: bool = False, keep: int | None = None) -> Backup:
    """Writes a copy of the database, as it is at one moment, to `target`, or under a dated name if that is a directory.

    It is there whole or not at all, on disk when this returns, and for its owner only. `force` overwrites; `keep`
    removes the oldest of a directory's dated copies, once the new one is there.
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
    # Each directory with the rights of its owner; the database is open before those of the other's are taken.
    with _open_source(database) as (source, itself), acting_for(directory or target.parent):
        path = _dated(directory, now) if directory else target
        _check_target(path, itself, force)
        with _half_made(path) as made:
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
    """A connection that sees one moment of a database, and what its file is. All its files are open afterwards."""
    try:
        with acting_for(database.parent):
            itself = database.stat()
            source = look_at(database)
    except OSError as error:
        raise CannotOpenDatabase(str(database), f"cannot be read ({error.strerror})") from error
    except sqlite3.Error as error:
        raise CannotOpenDatabase(str(database), str(error)) from error
    with closing(source):
        try:
            with acting_for(database.parent):
                source.execute("BEGIN")
                source.execute("SELECT 1 FROM sqlite_master").fetchone()  # only now is the moment held
                _check_schema(source, database)
        except sqlite3.Error as error:
            raise _told(database, error) from error
        yield source, itself


def _check_schema(source: sqlite3.Connection, database: Path) -> None:
    """Raises `DatabaseCorrupt`, `DatabaseTooNew`: before that no table of the file is touched."""
    found = schema.revision(source)
    if found is None:
        raise DatabaseCorrupt(str(database), "the file is no database of tminus")
    if not migrate.is_known(found):
        raise migrate.too_new(str(database), found)
    if wrong := schema.differences(source, found):
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DatabaseCorrupt(str(database), f"its schema is not that of tminus: {wrong[0]}{more}")


def _copied(source: sqlite3.Connection, database: Path, copy: Path) -> Contents:
    """Copies a database to an empty file, and looks whether that is a whole one. It need not be on disk yet."""
    try:
        with closing(_written_once(copy)) as target:
            source.backup(target, pages=PAGES)
            source.execute("ROLLBACK")
        with closing(_written_once(copy)) as made:
            # Or whoever opens it would need to write beside it.
            made.execute("PRAGMA journal_mode=DELETE")
            return _contents(made, copy)
    except sqlite3.Error as error:
        raise _told(database, error) from error


def _written_once(path: Path) -> sqlite3.Connection:
    """A connection to a file that counts only when it is finished: no journal, and one fsync, at the end."""
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


def _told(path: Path, error: sqlite3.Error) -> DatabaseCorrupt | CannotBackUp:
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return DatabaseCorrupt(str(path), f"the file is damaged ({text}): `tminus db check` says more")
    if "no such table" in text:
        return DatabaseCorrupt(str(path), f"the file is no database of tminus ({text})")
    return CannotBackUp(str(path), text)


@contextmanager
def _half_made(path: Path, refusal: type[CannotBackUp | CannotRestore] = CannotBackUp) -> Iterator[Path]:
    """A file beside `path`, for its owner only, to be flushed and renamed; removed if it does not come to that."""
    directory = path.parent
    try:
        _remove_half_made(directory)
        descriptor, name = tempfile.mkstemp(prefix=".tminus-", suffix=".half", dir=directory)
    except OSError as error:
        raise refusal(str(path), f"cannot be written ({error.strerror})") from error
    half = Path(name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # so that others can tell it from one that a killed process left
        yield half
        _flush(directory)
    except OSError as error:
        raise refusal(str(path), f"cannot be written ({error.strerror})") from error
    finally:
        for left in (half, half.with_name(f"{half.name}-wal"), half.with_name(f"{half.name}-shm")):
            left.unlink(missing_ok=True)
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Has what a file or a directory holds written to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_half_made(directory: Path) -> None:
    """Removes what killed processes left behind: each is as large as the database."""
    for left in directory.glob(".tminus-*.half"):
        with suppress(OSError):
            # In a directory such as /tmp others may have put something of that name there, a pipe say.
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
    """Puts a copy in the database's place; what was there stays beside it, under a dated name.

    The caller sees to it that no daemon runs (`config.lock`). The copy is checked, brought up to date and given a
    database id of its own before anything is touched: from here on the same event number may name another event.
    Event numbers go on from where the replaced database was, if that can be read.
    Raises `CannotRestore`, `CannotOpenDatabase`, `DatabaseCorrupt`, `DatabaseTooNew`.
    """
    database = sqlite_file(url)
    if database is None:
        raise CannotRestore("storage.url", "this database is PostgreSQL's: put it back with pg_restore")
    if not backup.is_file():
        raise CannotOpenDatabase(str(backup), "there is no such file")
    if database.exists() and backup.samefile(database):
        raise CannotRestore(str(backup), "is the database itself")
    # As root, what is in the database's directory is read and written with the rights of its owner alone.
    with (
        _open_source(backup) as (source, _),
        acting_for(database.parent),
        _half_made(database, CannotRestore) as made,
    ):
        _copied(source, backup, made)
        schema_before = _brought_up_to_date(backup, made)
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


def _brought_up_to_date(backup: Path, made: Path) -> str:
    """Checks a copy as thoroughly as can be, and upgrades its schema; returns the revision it had."""
    try:
        with closing(_written_once(made)) as copy:
            _contents(copy, made, "integrity_check")
            orphan = copy.execute("PRAGMA foreign_key_check").fetchone()
            if orphan:
                raise sqlite3.DatabaseError(f"malformed: row {orphan[1]} of {orphan[0]} belongs to no {orphan[2]}")
            before = copy.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise _told(backup, error) from error
    engine = make_engine(made, writes=True)
    try:
        migrate.upgrade(engine, Watch(None))
    except DatabaseTooNew as error:
        raise DatabaseTooNew(str(backup), error.problem) from None
    finally:
        engine.dispose()
    return str(before[0])


def _highest_seq(database: Path) -> int:
    """The highest event number that a database ever gave; 0 if it cannot be read, or none could follow it."""
    row = None
    if database.is_file():
        with suppress(sqlite3.Error, TminusError), closing(look_at(database)) as present:
            _check_schema(present, database)
            row = present.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return row[0] if row and isinstance(row[0], int) and 0 <= row[0] <= HIGHEST_SEQ else 0


def _move_aside(database: Path, now: datetime) -> Path | None:
    """Gives a database a second, dated name, and takes away the files beside it that must not meet its successor.

    The name itself is left to be replaced: where a power cut left none, a daemon would begin an empty database.
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
        # Only now: of a damaged database SQLite throws the -wal file away, and that may be the better half of it.
        with suppress(sqlite3.Error), closing(sqlite3.connect(database, isolation_level=None)) as present:
            present.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for one, name in kept:
            # What is in the database by now would be written into it once more, over what came later.
            if name.exists() and (not name.stat().st_size or (one == journal and not journal.exists())):
                name.unlink()
    # SQLite would take a -journal that is left for what the new database has to be rolled back to.
    journal.unlink(missing_ok=True)
    wal.unlink(missing_ok=True)
    shm.unlink(missing_ok=True)
    return aside
