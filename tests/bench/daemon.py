"""A real `tminus run`, as a service manager would run it: its log goes to a file."""

import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx

AGENT = 7
TICKS = os.sysconf("SC_CLK_TCK")

_CONFIG = """
[server]
listen = "127.0.0.1:0"

[limits]
sessions_per_agent = 0
{limits}

[[agents]]
id = {agent}
name = "Bench"
roles = ["agent", "monitor"]
token_sha256 = ["{digest}"]
"""


def megabytes(pid: int, what: str) -> float:
    """Return a line of a process's `/proc/<pid>/status`, such as `VmRSS:`, in megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(what)[2].split()[0]) / 1024


def processor_seconds(pid: int) -> float:
    """Return the processor time of all threads of a process so far, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Daemon:
    """A daemon on a state directory that may hold a database already. It stops at the end of the context.

    `more_config`: more sections of the configuration; `limits`: more lines of `[limits]`.
    """

    slowest_start = 0.0
    """Seconds that the slowest start so far has taken."""

    def __init__(self, directory: Path, more_config: str = "", limits: str = "") -> None:
        self.directory = directory
        self.database = directory / "tminus.db"
        self.token = secrets.token_urlsafe(24)
        self._log_path = directory / "log"
        config = directory / "tminus.toml"
        digest = hashlib.sha256(self.token.encode()).hexdigest()
        config.write_text(_CONFIG.format(agent=AGENT, digest=digest, limits=limits) + more_config)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TMINUS_")}
        environment["STATE_DIRECTORY"] = str(directory)
        command = [sys.executable, "-m", "tminus", "run", "--config", str(config)]
        begun = time.monotonic()
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self.pid = self._process.pid
        self._wait_until_ready()
        self.start_seconds = time.monotonic() - begun
        """Seconds from the start of the process until `/readyz` answered 200."""
        Daemon.slowest_start = max(Daemon.slowest_start, self.start_seconds)
        self.url: str = self.line("daemon.ready")["url"]
        self.port = int(self.url.rpartition(":")[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=f"{self.url}/v3", headers={"Session-id": self.token}, timeout=60)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(60)
        finally:
            self._process.kill()

    # --- its log ------------------------------------------------------------------------------------------------------

    def line(self, event: str) -> dict[str, Any]:
        """Wait for the first line of the log with this name, and return it."""
        for _ in range(600):
            for line in self._log_path.read_bytes().splitlines():
                if line.startswith(b"{") and line.endswith(b"}") and (found := json.loads(line))["event"] == event:
                    return dict(found)
            self._check()
            time.sleep(0.05)
        raise RuntimeError(f"the daemon has not logged {event}: {self._log_tail()}")

    def wait_for_lines(self, event: str, number: int, seconds: float = 120) -> float:
        """Wait until the log has this number of lines with a name; return the time (Unix time)."""
        wanted, found, rest = b'"event":"%s"' % event.encode(), 0, b""
        until = time.time() + seconds
        with self._log_path.open("rb") as log:
            while time.time() < until:
                *lines, rest = (rest + log.read()).split(b"\n")
                found += sum(wanted in line for line in lines)
                if found >= number:
                    return time.time()
                self._check()
                time.sleep(0.05)
        raise RuntimeError(f"the log has {found} lines {event}, not {number}")

    def _wait_until_ready(self) -> None:
        """Request `/readyz` over the local socket until it answers 200."""
        until = time.monotonic() + 300
        while time.monotonic() < until:
            self._check()
            try:
                with socket.socket(socket.AF_UNIX) as local:
                    local.settimeout(300)
                    local.connect(str(self.directory / "tminus.sock"))
                    local.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    if b" 200 " in local.recv(4096).partition(b"\r\n")[0]:
                        return
            except OSError:
                pass
            time.sleep(0.005)
        raise RuntimeError(f"the daemon is not ready: {self._log_tail()}")

    def _check(self) -> None:
        if self._process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {self._process.returncode}: {self._log_tail()}")

    def _log_tail(self) -> str:
        return self._log_path.read_text(errors="replace")[-2000:]

    # --- memory and time ----------------------------------------------------------------------------------------------

    def memory(self) -> float:
        """Return the resident memory in megabytes."""
        return megabytes(self.pid, "VmRSS:")

    def reset_peak(self) -> None:
        """Start the measurement of `peak_memory`."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_memory(self) -> float:
        """Return the maximum resident memory since `reset_peak`, in megabytes."""
        return megabytes(self.pid, "VmHWM:")

    def cpu_seconds(self) -> float:
        """Return the processor time of all threads so far, in user and kernel mode."""
        return processor_seconds(self.pid)
