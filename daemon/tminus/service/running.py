"""The mark of a run: a file in the state directory, from which the next start sees how the run before it ended.

The file is there while a daemon runs, its time is that of the last sign of life, and a clean stop removes it. It is not
in the database, since that may be away, and may be shared, when the first line of the log has to be written.
"""

import json
import os
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tminus import __version__, clock
from tminus.domain import timestamps
from tminus.system.threads import RestartingThread

MARK = "tminus.run"
"""The name of the file."""

ALIVE_EACH = 2.0
"""Seconds between two signs of life."""

_LARGEST = 4096
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Crash:
    """A run that has not ended as it should. What its mark does not tell is None."""

    pid: int | None
    version: str | None
    last_alive: datetime
    away: timedelta
    rebooted: bool
    """Whether the host has started since."""

    @property
    def cause(self) -> str:
        """What ended the run, in words."""
        return "the host was restarted, or lost power" if self.rebooted else "the process was killed, or crashed"


class Running:
    """The mark of this run. Nothing here raises: what cannot be written, on a full disk, is left out."""

    def __init__(self, state: Path) -> None:
        """`state`: the state directory, from which others have been locked out."""
        self._path = state / MARK
        self.crash = self._previous()
        """How the run before ended; None if it ended as it should, or there was none."""
        self._descriptor: int | None = None
        mark = {"pid": os.getpid(), "version": __version__, "boot": _boot_id()}
        with suppress(OSError):
            # Never through a link, nor into a file that has another name elsewhere.
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
        """Stop giving signs of life; `clean`: take the mark away, as this run ends as it should."""
        self._ending.set()
        self._thread.join(1)  # a disk that hangs must not hold up the end
        if self._descriptor is not None:
            os.close(self._descriptor)
        if clean:
            with suppress(OSError):
                self._path.unlink()

    def _live(self) -> None:
        while not self._ending.wait(ALIVE_EACH):
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
    """Return what names this start of the machine; empty where that cannot be read."""
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return ""
