"""The daemon as users run it: the installed command, in its own process, with a configuration file.

`Daemon` starts, stops and calls a daemon; `AGENTS` are the agents in its configuration. Tests use only its public
interfaces: HTTP, the local socket, signals and the log.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.support.activation import activated
from tests.support.plain_http import NO_TLS
from tests.support.processes import TMINUS, Process, start
from tests.support.waiting import eventually

JSON = dict[str, Any]

AGENTS: Mapping[str, tuple[int, str, str, tuple[str, ...]]] = {
    "admin": (
        32593,
        "System Administrator",
        "6816f79cc0a8016401c5a33be04be441",
        ("agent", "api", "group_admin"),
    ),
    "anna": (7, "Anna Agent", "aagent", ("agent", "api")),
    "ben": (8, "Ben Agent", "bagent", ("agent",)),
    "lister": (9, "Lister", "lister", ("agent",)),
    "supervisor": (10, "Sue Pervisor", "sue", ("supervisor",)),
    "monitor": (11, "Monitor", "", ("monitor",)),
    "room": (12, "Room", "", ("room",)),
    "api": (13, "Nobody", "", ("api",)),
    "chief": (15, "Chief", "", ("group_admin",)),
    "expired": (14, "Gone", "", ("agent",)),
}
"""The id, name, external id and roles of each agent, by a short name."""


def token_of(name: str) -> str:
    """Return an agent's token. It is the same in every run, and long enough to be unique in a log."""
    return hashlib.sha256(f"token of {name}".encode()).hexdigest()[:43]


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


Section = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A table of the configuration, or a list of tables."""


def toml(sections: Mapping[str, Section]) -> str:
    """Return sections as TOML. Values must have the same notation in JSON and TOML."""
    text = ""
    for name, section in sections.items():
        head, tables = (f"[{name}]", [section]) if isinstance(section, Mapping) else (f"[[{name}]]", section)
        for table in tables:
            text += f"{head}\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    return text


def agents_toml() -> str:
    """Return the `[[agents]]` tables."""
    text = ""
    for name, (number, shown, external_id, roles) in AGENTS.items():
        text += f'[[agents]]\nid = {number}\nname = "{shown}"\nexternal_id = "{external_id}"\n'
        text += f'email = "{name}@example.com"\nroles = {json.dumps(roles)}\n'
        text += f'token_sha256 = ["{digest(token_of(name))}"]\n'
        text += 'expires = "2020-01-01T00:00:00Z"\n' if name == "expired" else ""
    return text


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without the variables that the daemon reads, and with the given ones added."""
    removed = (
        "TMINUS_",
        "STATE_DIRECTORY",
        "NOTIFY_",
        "WATCHDOG_",
        "JOURNAL_",
        "LISTEN_",
        "PYTHONDONTWRITEBYTECODE",
    )  # PYTHONDONTWRITEBYTECODE would make each start compile all modules
    kept = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
    return {**kept, **more}


class Daemon:
    """A daemon in its own directory, which a test can stop and start again.

    Parameters
    ----------
    sections
        Settings that differ from the defaults below, by section.
    """

    def __init__(self, **sections: Section) -> None:
        # Short: the path of a Unix socket has at most 107 bytes.
        self.home = Path(tempfile.mkdtemp(prefix="tm-", dir="/tmp"))
        self.state = self.home / "s"
        self.config = self.home / "t.toml"
        self.socket = self.state / "tminus.sock"
        self.log = self.home / "log"
        self.errors = self.home / "err"
        self.url = ""
        self.process: Process | None = None
        self._was_killed = False
        """Whether an earlier process was ended by SIGKILL, which may cut a line of the log: a write is not atomic."""
        self.passed: Sequence[socket.socket] = ()
        """Listening sockets that the daemon inherits at its start, as in systemd's socket activation."""
        self.arguments: Sequence[str] = ()
        """Additional arguments of `tminus run`."""
        self.fresh = False
        """Whether the daemon and its commands start as new processes, as from a shell, instead of forked ones."""
        self.http = httpx.Client(verify=NO_TLS, timeout=60)
        self.token = token_of("admin")
        self.tokens = {name: token_of(name) for name in AGENTS}
        self.configure(**sections)

    def configure(self, **sections: Section) -> None:
        """Write the configuration file."""
        base: dict[str, Any] = {
            "server": {"listen": "127.0.0.1:0"},
            "log": {"format": "json"},
            "limits": {"failed_tokens": "", "pin_lookups": "", "sessions_per_agent": 0},
        }
        for name, section in sections.items():
            if isinstance(section, Mapping):
                base.setdefault(name, {}).update(section)
            else:
                base[name] = section
        self.database: str = base.get("storage", {}).get("url", f"sqlite:///{self.state / 'tminus.db'}")
        self.config.write_text(f"{toml(base)}\n{agents_toml()}")

    # --- starting and stopping ----------------------------------------------------------------------------------------

    def start(self, **env: str) -> None:
        """Start the daemon and wait until it is ready. Fail if it ends instead."""
        already = len(self.log_lines())
        self.spawn(**env)
        process = self.process
        assert process is not None

        def ready() -> JSON | None:
            assert process.poll() is None, f"the daemon ended: {self.log_text}{self.errors.read_text()}"
            return next((line for line in self.log_lines()[already:] if line["event"] == "daemon.ready"), None)

        line = eventually(ready)
        assert line is not None
        self.url = line["url"]

    def spawn(self, **env: str) -> None:
        """Start the daemon without waiting."""
        assert self.process is None or self.process.poll() is not None
        self._was_killed = self._may_have_cut_a_line()
        arguments = ["run", "--config", str(self.config), *self.arguments]
        environ = environment(**{"STATE_DIRECTORY": str(self.state), **env})
        if self.passed:
            command, descriptors = activated([TMINUS, *arguments], self.passed)
            with self.log.open("ab") as out, self.errors.open("ab") as err:
                self.process = subprocess.Popen(
                    command, pass_fds=descriptors, env=environ, cwd=self.home, stdin=subprocess.DEVNULL, stdout=out,
                    stderr=err,
                )  # fmt: skip
        else:
            self.process = start(arguments, environ, self.home, self.log, self.errors, fresh=self.fresh)

    def spawn_patched(self, source: str) -> None:
        """Run Python source that patches modules and then calls `tminus run`. Do not wait until it is ready."""
        with self.log.open("ab") as out, self.errors.open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", source, "run", "--config", str(self.config)],
                env=environment(STATE_DIRECTORY=str(self.state)), cwd=self.home, stdout=out, stderr=err,
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL. The operating system keeps running, so what the daemon has written reaches the disk."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)

    def terminate(self) -> int:
        """Send SIGTERM; return the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def restart(self) -> None:
        """Stop the daemon and start it in the same state directory."""
        assert self.terminate() == 0
        self.start()

    def remove(self) -> None:
        """Kill the process if it still runs, and remove its directory."""
        self.http.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        shutil.rmtree(self.home, ignore_errors=True)

    # --- the log ------------------------------------------------------------------------------------------------------

    @property
    def log_text(self) -> str:
        """Everything that was logged since the first start. The daemon may be in the middle of a character."""
        return self.log.read_bytes().decode(errors="replace")

    def log_lines(self, event: str | None = None) -> list[JSON]:
        """Return the complete log lines since the first start: all, or those with this name."""
        if not self.log.exists():
            return []
        whole = self.log_text.split("\n")[:-1]
        lines: list[JSON] = []
        for line in whole:
            try:
                lines.append(json.loads(line))
            except ValueError:
                if not self._may_have_cut_a_line():
                    raise
        return [line for line in lines if event in (None, line["event"])]

    def _may_have_cut_a_line(self) -> bool:
        return self._was_killed or (self.process is not None and self.process.poll() == -signal.SIGKILL)

    def logged(self, event: str, **fields: Any) -> JSON:
        """Wait for a log line with this name and these fields; return the latest."""

        def found() -> list[JSON]:
            return [line for line in self.log_lines(event) if fields.items() <= line.items()]

        return eventually(found)[-1]

    # --- calling the API ----------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        by: str | None = "admin",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """Call the API as the agent with this name, or without a token if it is None. The path is below `/v3`."""
        sent = {"Session-id": self.tokens[by]} if by else {}
        if content is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        return self.http.request(method, f"{self.url}/v3{path}", json=body, content=content, headers=sent)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.call("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.call("POST", path, body, **more)

    def put(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.call("PUT", path, body, **more)

    def delete(self, path: str, **more: Any) -> httpx.Response:
        return self.call("DELETE", path, **more)

    def make(self, **body: Any) -> JSON:
        """Create a session: a live session that opens at once, unless the body has other fields."""
        by = body.pop("by", "admin")
        answer = self.post("/supportsessions", {"type": "live", "label": "A session", **body}, by=by)
        assert answer.status_code == 200, answer.text
        made: JSON = answer.json()
        return made

    def session(self, session_id: str, **more: Any) -> JSON:
        answer = self.get(f"/supportsession/{session_id}", **more)
        assert answer.status_code == 200, answer.text
        shown: JSON = answer.json()
        return shown

    def events(self, session_id: str) -> list[JSON]:
        """Return all events of a session."""
        answer = self.get(f"/supportsession/{session_id}/events?limit=1000")
        assert answer.status_code == 200, answer.text
        events: list[JSON] = answer.json()["events"]
        return events

    def feed(self) -> list[JSON]:
        """Return all events."""
        events: list[JSON] = []
        while True:
            answer = self.get(f"/events?limit=1000&after={events[-1]['seq'] if events else 0}")
            assert answer.status_code == 200, answer.text
            page: list[JSON] = answer.json()["events"]
            if not page:
                return events
            events += page

    def join(self, session_id: str, name: str = "Guest", role: str = "guest") -> httpx.Response:
        return self.post(f"/supportsession/{session_id}/participants", {"role": role, "name": name}, by="room")

    # --- the command --------------------------------------------------------------------------------------------------

    def command(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run `tminus` with this daemon's configuration, by default over its local socket."""
        with tempfile.TemporaryDirectory(dir=self.home) as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            environ = environment(
                **{"STATE_DIRECTORY": str(self.state), "TMINUS_CONFIG": str(self.config), "COLUMNS": "200", **env}
            )
            code = start(arguments, environ, self.home, out, err, fresh=self.fresh).wait(60)
            return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())
