"""Write a file as a whole or not at all: to a partial file beside it, which is flushed to disk and then renamed."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tminus.domain.errors import CannotBackUp, CannotRestore


@contextmanager
def partial_file(path: Path, refusal: type[CannotBackUp | CannotRestore] = CannotBackUp) -> Iterator[Path]:
    """Yield an empty file beside `path` that only its owner can read, for the caller to fill, flush and rename.

    If the caller does not rename it, it is removed. `refusal`: the error to raise if it cannot be written.
    """
    directory = path.parent
    try:
        _remove_partial_files(directory)
        descriptor, name = tempfile.mkstemp(prefix=".tminus-", suffix=".half", dir=directory)
    except OSError as error:
        raise refusal(str(path), f"cannot be written ({error.strerror})") from error
    partial = Path(name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # a file without a lock was left by a killed process
        yield partial
        flush(directory)
    except OSError as error:
        raise refusal(str(path), f"cannot be written ({error.strerror})") from error
    finally:
        for remaining in (partial, partial.with_name(f"{partial.name}-wal"), partial.with_name(f"{partial.name}-shm")):
            remaining.unlink(missing_ok=True)
        os.close(descriptor)


def flush(path: Path) -> None:
    """Flush a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_partial_files(directory: Path) -> None:
    """Remove the partial files of killed processes: each is as large as the database."""
    for remaining in directory.glob(".tminus-*.half"):
        with suppress(OSError):
            # In a directory such as /tmp another user may have created something else with that name, such as a pipe.
            descriptor = os.open(remaining, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remaining.unlink()
            finally:
                os.close(descriptor)
