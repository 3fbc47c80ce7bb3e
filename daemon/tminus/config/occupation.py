"""One daemon a state directory: the lock file that keeps others out."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from tminus.errors import AlreadyRunning, StateDirectoryUnusable

LOCK = "tminus.lock"
"""Its name; it holds the number of the process that has locked it."""


@contextmanager
def occupy(state: Path) -> Iterator[None]:
    """Makes the state directory and keeps others out of it: other daemons, and whoever replaces the database.

    Raises `StateDirectoryUnusable`, `AlreadyRunning`.
    """
    try:
        state.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = (state / LOCK).open("a+")
    except OSError as error:
        raise StateDirectoryUnusable(str(state), f"cannot be used as the state directory ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning(str(state), f"another tminus works here ({_holder(lock)}): stop it first") from None
        if os.geteuid() == 0:
            # Made by root, who restored a backup, it would keep the daemon's own user out for ever.
            owner = state.stat()
            os.fchown(lock.fileno(), owner.st_uid, owner.st_gid)
        with suppress(OSError):  # on a full disk it is locked all the same
            lock.truncate(0)
            os.write(lock.fileno(), b"%d\n" % os.getpid())
        yield


def _holder(lock: TextIO) -> str:
    lock.seek(0)
    return f"process {lock.read(20).strip() or 'unknown'}"
