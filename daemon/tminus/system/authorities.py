"""When the certificate authorities of this machine were changed.

Reading them takes a tenth of a second, so a TLS context with them is kept until they change.
"""

from contextlib import suppress
from pathlib import Path


def modification_times(*paths: str | None) -> tuple[int, ...]:
    """Return the modification times of the files and directories that exist, in nanoseconds."""
    times: list[int] = []
    for path in paths:
        with suppress(OSError):
            if path is not None:
                times.append(Path(path).stat().st_mtime_ns)
    return tuple(times)
