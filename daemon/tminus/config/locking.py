"""Lock files: only one daemon may use a state directory and an SQLite database."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tminus.domain.errors import AlreadyRunning, CannotOpenDatabase, StateDirectoryUnusable
from tminus.system.privileges import acting_for

LOCK = "tminus.lock"
"""The name of the lock file. It contains the id of the process that holds the lock."""

_TRANSIENT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that may go away: the disk is full or read-only."""


@contextmanager
def lock(state: Path, database: Path | None) -> Iterator[None]:
    """Create the state directory, and lock it and the SQLite database, which may be in another directory.

    The locks exclude other daemons and commands that replace the database. Root takes the rights of the user who
    controls the directory. Raises `StateDirectoryUnusable`, `CannotOpenDatabase`, `AlreadyRunning`.
    """
    held: list[int] = []
    try:
        try:
            with acting_for(state):
                create_state_directory(state)
                held.append(_open(state / LOCK))
                _lock(held[-1], state)
        except OSError as error:
            problem = f"cannot be used as the state directory ({error.strerror})"
            raise StateDirectoryUnusable(str(state), problem, error.errno in _TRANSIENT) from error
        if database is not None:
            try:
                with acting_for(database.parent):
                    # A file of its own: closing the database file would release SQLite's own locks on it.
                    held.append(_open(database.with_name(f"{database.name}-lock")))
                    _lock(held[-1], database)
            except OSError as error:
                raise CannotOpenDatabase(
                    str(database), f"cannot be locked ({error.strerror})", error.errno in _TRANSIENT
                ) from error
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def create_state_directory(state: Path) -> None:
    """Create the state directory if it does not exist, with mode 0700: whoever can use its contents has all rights."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)


def create_private_database(database: Path) -> None:
    """Create an empty SQLite database file if there is none, with mode 0600: it contains secrets.

    The files that SQLite creates next to it get the same mode. Errors are ignored; opening the database reports them.
    """
    with suppress(OSError), acting_for(database.parent):
        os.close(os.open(database, os.O_CREAT | os.O_EXCL, 0o600))


def _open(path: Path) -> int:
    """Open a lock file, and create it if there is none, with mode 0600: whoever can open it can also lock it.

    Symbolic links and files with more than one hard link are refused, since the lock file is truncated.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path.name} is a symbolic link") from None
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path.name} is not a regular file, or has more than one hard link")
    if stat.S_IMODE(found.st_mode) & 0o077:
        with suppress(PermissionError):  # it belongs to root, from an earlier run as root, and can still be locked
            os.fchmod(descriptor, 0o600)
    return descriptor


def _lock(descriptor: int, subject: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise AlreadyRunning(
            str(subject), f"another tminus is running here ({_holder(descriptor)}): stop it first"
        ) from None
    with suppress(OSError):  # a full disk does not prevent locking
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 20, 0).strip()
    return f"process {text.decode() if text.isdigit() else 'unknown'}"
