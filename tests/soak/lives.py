"""A daemon that runs for hours: its log is long, and is never read as a whole while the daemon runs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.daemons import JSON, Daemon, Section
from tests.support.waiting import eventually


class LongLived(Daemon):
    """A daemon that is started as a new process each time, as a service manager does.

    `started`: when its last start was complete, on the monotonic clock. `memory`: pairs of seconds since that start and
    resident megabytes.
    """

    def __init__(self, name: str, **sections: Section) -> None:
        self.name = name
        self.started = 0.0
        self.starts = 0
        self.memory: list[tuple[float, float]] = []
        self.env: dict[str, str] = {}
        self.wanted = True
        """Whether it should be running; False while a fault or the end of the test stops it."""
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
                raise ChildProcessError(f"{self.name} ended during its start: {self._tail(offset)}")
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

    def sample_memory(self) -> None:
        """Record its present memory, if it runs."""
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
        """Yield all lines of its log."""
        with self.log.open("rb") as log:
            for line in log:
                try:
                    yield json.loads(line)
                except ValueError:  # the daemon was killed while it wrote the line
                    yield {"event": "a line cut off", "level": "warning", "message": line.decode(errors="replace")}
