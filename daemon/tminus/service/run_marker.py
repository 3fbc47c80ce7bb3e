"""The marker file of a run. A start that finds one logs that the previous run crashed.

The file is in the state directory. The daemon updates its modification time regularly, and a clean stop removes it. It
is not in the database, which may be shared, and may be unreachable when the first log line is written.
"""

import json
import os
import stat
import threading
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tminus import __version__, clock
from tminus.domain import timestamps
from tminus.system.threads import RestartingThread

MARK = "tminus.run"
"""The name of the file."""

ALIVE_INTERVAL = 2.0
"""Seconds between two updates of the file's modification time."""

_LARGEST = 4096
"""Maximum bytes that are read of a file."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Crash(NamedTuple):
    """A run that did not stop cleanly. Values that its marker file does not have are None."""

    pid: int | None
    version: str | None
    last_alive: datetime
    away: timedelta
    """Time from `last_alive` to this start."""
    rebooted: bool
    """Whether the host has booted since the run started."""

    @property
    def cause(self) -> str:
        """The cause of the crash, in words."""
        return "the host was restarted, or lost power" if self.rebooted else "the process was killed, or crashed"


class RunMarker:
    """The marker file of this run. No method raises: a file that cannot be written is incomplete or missing."""

    def __init__(self, state: Path) -> None:
        """Create the file in the state directory, which must be locked, and read that of the previous run."""
        self._path = state / MARK
        self.crash = self._previous()
        """The crash of the previous run; None if that run stopped cleanly, or this is the first."""
        self._descriptor: int | None = None
        mark = {"pid": os.getpid(), "version": __version__, "boot": _boot_id()}
        with suppress(OSError):
            # Never through a symbolic link, nor into a file with more than one hard link.
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            found = os.fstat(self._descriptor)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                text = json.dumps(mark).encode()
                os.pwrite(self._descriptor, text, 0)
                os.ftruncate(self._descriptor, len(text))
        self._ending = threading.Event()
        self._thread = RestartingThread("running", self._live, daemon=True)
        self._thread.start()

    def end(self, *, clean: bool) -> None:
        """Stop updating the file, and remove it after a `clean` stop."""
        self._ending.set()
        self._thread.join(1)  # a disk that hangs must not delay the stop
        if self._descriptor is not None:
            os.close(self._descriptor)
        if clean:
            with suppress(OSError):
                self._path.unlink()

    def _live(self) -> None:
        while not self._ending.wait(ALIVE_INTERVAL):
            if self._descriptor is not None:
                with suppress(OSError):
                    os.utime(self._descriptor)

    def _previous(self) -> Crash | None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
            found = os.fstat(descriptor)
            text = file.read(_LARGEST) if stat.S_ISREG(found.st_mode) else b""
        mark: Any = None
        with suppress(ValueError, RecursionError):
            mark = json.loads(text)
        mark = mark if isinstance(mark, dict) else {}
        pid, version, boot = mark.get("pid"), mark.get("version"), mark.get("boot")
        last_alive = timestamps.EPOCH + timestamps.MILLISECOND * (found.st_mtime_ns // 1_000_000)
        return Crash(
            pid=pid if isinstance(pid, int) else None,
            version=version[:64] if isinstance(version, str) else None,
            last_alive=last_alive,
            away=max(timedelta(0), clock.now() - last_alive),
            rebooted=bool(boot) and boot != _boot_id(),
        )


def _boot_id() -> str:
    """Return the id of the machine's current boot; `""` if it cannot be read."""
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return ""
