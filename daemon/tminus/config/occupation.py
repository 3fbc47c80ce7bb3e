"""One daemon a state directory and a database: the lock files that keep others out."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from tminus.errors import AlreadyRunning, CannotOpenDatabase, StateDirectoryUnusable

LOCK = "tminus.lock"
"""Its name; it holds the number of the process that has locked it."""


@contextmanager
def occupy(state: Path, database: Path | None) -> Iterator[None]:
    """Makes the state directory and keeps others out of it, and of an SQLite database, which may be elsewhere: other
    daemons, and whoever replaces the database.

    Raises `StateDirectoryUnusable`, `CannotOpenDatabase`, `AlreadyRunning`.
    """
    with ExitStack() as held:
        try:
            state.mkdir(mode=0o750, parents=True, exist_ok=True)
            lock = held.enter_context((state / LOCK).open("a+"))
        except OSError as error:
            problem = f"cannot be used as the state directory ({error.strerror})"
            raise StateDirectoryUnusable(str(state), problem) from error
        _lock(lock, state, state)
        if database is not None:
            try:
                # Not on the file itself: whoever closes that loses the locks of SQLite.
                file = database.resolve()
                lock = held.enter_context(file.with_name(f"{file.name}-lock").open("a+"))
            except OSError as error:
                raise CannotOpenDatabase(str(database), f"cannot be locked ({error.strerror})") from error
            _lock(lock, database, file.parent)
        yield


def make_private(database: Path) -> None:
    """Makes an SQLite database, if there is none, for its owner only: it holds secrets, and the files that SQLite makes
    beside it have its mode. What cannot be made is for whoever opens it to tell.
    """
    with suppress(OSError):
        descriptor = os.open(database, os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _give(descriptor, database.parent)
        finally:
            os.close(descriptor)


def _give(descriptor: int, folder: Path) -> None:
    """Made by root, who restored a backup, it would keep the daemon's own user out for ever."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _lock(lock: TextIO, subject: Path, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise AlreadyRunning(str(subject), f"another tminus works here ({_holder(lock)}): stop it first") from None
    _give(lock.fileno(), folder)
    with suppress(OSError):  # on a full disk it is locked all the same
        lock.truncate(0)
        os.write(lock.fileno(), b"%d\n" % os.getpid())


def _holder(lock: TextIO) -> str:
    lock.seek(0)
    return f"process {lock.read(20).strip() or 'unknown'}"
