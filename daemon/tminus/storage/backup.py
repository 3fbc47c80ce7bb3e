"""Back up an SQLite database while a daemon writes."""

import os
import re
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

from tminus import clock
from tminus.domain.errors import CannotBackUp, CannotOpenDatabase
from tminus.storage.engine import Location, not_a_file, sqlite_file
from tminus.storage.partial_file import flush, partial_file
from tminus.storage.snapshot import Contents, copy_snapshot, open_snapshot
from tminus.system.privileges import acting_for

_DATED = re.compile(r"tminus-(\d{8}T\d{6}Z)(?:-(\d{1,9}))?\.db")


@dataclass(frozen=True, slots=True)
class Backup:
    """A written backup, and the older ones that were removed."""

    path: Path
    contents: Contents
    seconds: float
    removed: tuple[Path, ...] = ()


def back_up(url: Location, target: Path, now: datetime, *, force: bool = False, keep: int | None = None) -> Backup:
    """Write a copy of one snapshot of the database to `target`; if that is a directory, to a dated file in it.

    The copy is written as a whole or not at all, is on disk when this returns, and can be read only by its owner.
    `force`: overwrite a file. `keep`: the number of dated copies to keep in the directory; the oldest are removed.
    Raises `CannotBackUp`, `CannotOpenDatabase`, `DatabaseCorrupt`.
    """
    begun = clock.monotonic()
    database = sqlite_file(url)
    if database is None:
        raise CannotBackUp("storage.url", "this database is PostgreSQL's: back it up with pg_dump --format=custom")
    try:
        with acting_for(database.parent):
            problem = not_a_file(database)
    except OSError as error:
        raise CannotOpenDatabase(str(database), f"cannot be read ({error.strerror})") from error
    if problem:
        raise CannotOpenDatabase(str(database), f"{problem}, so there is nothing to back up")
    directory = target if target.is_dir() else None
    # Each directory is used with the rights of its owner: the database is opened before the target's rights apply.
    with open_snapshot(database) as (source, itself), acting_for(directory or target.parent):
        path = _dated(directory, now) if directory else target
        _check_target(path, itself, force)
        with partial_file(path) as partial:
            contents = copy_snapshot(source, database, partial)
            flush(partial)
            partial.replace(path)
        removed = _remove_oldest(directory, keep) if directory and keep else ()
    return Backup(path, contents, clock.monotonic() - begun, removed)


def _check_target(path: Path, database: os.stat_result, force: bool) -> None:
    try:
        if not path.parent.is_dir():
            raise CannotBackUp(str(path), "there is no such directory")
        if not path.exists():
            return
        if not path.is_file():
            raise CannotBackUp(str(path), "is not a regular file, so it cannot be overwritten")
        if os.path.samestat(path.stat(), database):
            raise CannotBackUp(str(path), "is the database itself")
    except OSError as error:
        raise CannotBackUp(str(path), str(error.strerror)) from error
    if not force:
        raise CannotBackUp(str(path), "exists already: name another file, or overwrite it with --force")


def _dated(directory: Path, now: datetime) -> Path:
    """Return `tminus-20261122T101500Z.db` in a directory, or `tminus-20261122T101500Z-2.db` if that exists."""
    names = (f"tminus-{stamp(now)}{f'-{number}' if number > 1 else ''}.db" for number in count(1))
    return next(path for name in names if not (path := directory / name).exists())


def _age(path: Path) -> tuple[str, int] | None:
    """Return the sort key of a dated copy, which puts the oldest first; None for any other file."""
    found = _DATED.fullmatch(path.name)
    return (found[1], int(found[2] or 1)) if found else None


def stamp(now: datetime) -> str:
    """Return a time for a file name, such as `20261122T101500Z`."""
    return f"{now:%Y%m%dT%H%M%SZ}"


def _remove_oldest(directory: Path, keep: int) -> tuple[Path, ...]:
    dated = sorted((age, path) for path in directory.iterdir() if (age := _age(path)))
    oldest = [path for _, path in dated[:-keep]]
    try:
        for path in oldest:
            path.unlink()
    except OSError as error:
        problem = f"the new copy was written, but this old one cannot be removed ({error.strerror})"
        raise CannotBackUp(str(path), problem) from error
    return tuple(oldest)
