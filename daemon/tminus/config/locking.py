"""One daemon a state directory and a database: the lock files that keep others out."""

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
"""Its name; it holds the number of the process that has locked it."""

_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A disk that is full or read-only works again some time."""


@contextmanager
def lock(state: Path, database: Path | None) -> Iterator[None]:
    """Make the state directory and keep others out of it, and of an SQLite database, which may be elsewhere: other
    daemons, and whoever replaces the database.

    Root does so with the rights of whoever controls the directory. Raises `StateDirectoryUnusable`,
    `CannotOpenDatabase`, `AlreadyRunning`.
    """
    held: list[int] = []
    try:
        try:
            with acting_for(state):
                make_directory(state)
                held.append(_open(state / LOCK))
                _lock(held[-1], state)
        except OSError as error:
            problem = f"cannot be used as the state directory ({error.strerror})"
            raise StateDirectoryUnusable(str(state), problem, error.errno in _PASSING) from error
        if database is not None:
            try:
                with acting_for(database.parent):
                    file = database.resolve()  # a link is followed with these rights, and no others
                    with acting_for(file.parent):
                        # Not on the file itself: whoever closes that loses the locks of SQLite.
                        held.append(_open(file.with_name(f"{file.name}-lock")))
                        _lock(held[-1], database)
            except OSError as error:
                raise CannotOpenDatabase(
                    str(database), f"cannot be locked ({error.strerror})", error.errno in _PASSING
                ) from error
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def make_directory(state: Path) -> None:
    """Make the state directory, if there is none, for its owner only: what is in it gives every right."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_private(database: Path) -> None:
    """Make an SQLite database, if there is none, for its owner only: it holds secrets, and the files that SQLite makes
    beside it have its mode. What cannot be made is for whoever opens it to tell.
    """
    with suppress(OSError), acting_for(database.parent):
        os.close(os.open(database, os.O_CREAT | os.O_EXCL, 0o600))


def _open(path: Path) -> int:
    """Open a lock file, made if there is none. It is for its owner only: whoever can open it can lock it, too.

    A link is not followed, and a file that has another name elsewhere is refused: it would be truncated.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path.name} is a link") from None
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path.name} is no plain file, or has a second name")
    if stat.S_IMODE(found.st_mode) & 0o077:
        with suppress(PermissionError):  # root's, from a run as root: it can be locked all the same
            os.fchmod(descriptor, 0o600)
    return descriptor


def _lock(descriptor: int, subject: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise AlreadyRunning(
            str(subject), f"another tminus works here ({_holder(descriptor)}): stop it first"
        ) from None
    with suppress(OSError):  # on a full disk it is locked all the same
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 20, 0).strip()
    return f"process {text.decode() if text.isdigit() else 'unknown'}"
