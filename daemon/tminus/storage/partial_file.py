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
        flush(directory)
    except OSError as error:
        raise refusal(str(path), f"cannot be written ({error.strerror})") from error
    finally:
        for left in (partial, partial.with_name(f"{partial.name}-wal"), partial.with_name(f"{partial.name}-shm")):
            left.unlink(missing_ok=True)
        os.close(descriptor)


def flush(path: Path) -> None:
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
