"""A daemon that lives for hours: its log is long, and is never read as a whole while it runs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.daemons import JSON, Daemon, Section
from tests.support.waiting import eventually


class LongLived(Daemon):
    """A daemon started from nothing each time, as a service manager does it.

    `started` is when its last start was done (monotonic seconds), `memory` the resident megabytes seen since then,
    by seconds since that start.
    """

    def __init__(self, name: str, **sections: Section) -> None:
        self.name = name
        self.started = 0.0
        self.starts = 0
        self.memory: list[tuple[float, float]] = []
        self.env: dict[str, str] = {}
        self.wanted = True
        """Whether it is meant to run: else somebody is just ending it."""
        super().__init__(**sections)
        self.fresh = True

    def start(self, **env: str) -> None:
        self.env = env or self.env
        offset = self.log.stat().st_size if self.log.exists() else 0
        self.spawn(**self.env)
        process = self.process
        assert process is not None
        deadline = time.monotonic() + 60

        def ready() -> str:
            with self.log.open("rb") as log:
                log.seek(offset)
                for line in log.read().splitlines(keepends=True):
                    if line.endswith(b"\n") and b'"daemon.ready"' in line:
                        return str(json.loads(line)["url"])
            if process.poll() is not None:
                raise ChildProcessError(f"{self.name} ended at its start: {self._tail(offset)}")
            time.sleep(0.05)
            return ""

        self.url = eventually(ready, deadline - time.monotonic())
        self.memory = []
        self.started = time.monotonic()
        self.starts += 1
        self.wanted = True

    def _tail(self, offset: int) -> str:
        with self.log.open("rb") as log:
            log.seek(offset)
            return f"{log.read()[-2000:].decode(errors='replace')}{self.errors.read_text()[-500:]}"

    def weigh(self) -> None:
        """Notes what memory it takes now, if it runs."""
        if self.process is None or self.process.poll() is not None:
            return
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        if "VmRSS:" in status:
            megabytes = int(status.partition("VmRSS:")[2].split()[0]) / 1024
            self.memory.append((time.monotonic() - self.started, megabytes))

    def lines(self) -> Iterator[JSON]:
        """Its whole log, line by line."""
        with self.log.open("rb") as log:
            for line in log:
                try:
                    yield json.loads(line)
                except ValueError:  # it was killed in the middle of it
                    yield {"event": "a line cut off", "level": "warning", "message": line.decode(errors="replace")}
