"""A real systemd that runs the units: PID 1 of its own namespaces, over an overlay of this machine's root.

Nothing outside of the box changes. It needs root, namespaces and Debian's systemd; `Box.missing` returns what is
missing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import eventually

SCRIPT = Path(__file__).with_suffix(".sh")

PYTHON = Path("/usr/bin/python3")
"""The Python in the box. A service cannot use a Python below /root or /home, since it may not see these."""

NEEDED = ("unshare", "nsenter", "setpriv", "ip", "systemctl", "systemd-analyze", "systemd-sysusers", "journalctl")

CGROUPS = Path("/sys/fs/cgroup")

ROOTS_SHELL = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
"""The environment of root's shell."""


class CannotBoot(Exception):
    """The box cannot boot on this machine."""


class Box:
    """A booted systemd. It is a context manager; its end removes everything.

    Parameters
    ----------
    files
        Path in the box -> content.
    shown
        Directory of the machine -> where the box shows it, read-only.
    """

    def __init__(self, files: Mapping[str, str], shown: Mapping[Path, str]) -> None:
        self._files = files
        self._shown = shown

    @staticmethod
    def missing(*programs: str) -> str:
        """Return what this machine lacks for a box, including these programs; empty if a box can boot."""
        if os.geteuid() != 0:
            return "it needs root"
        lacking = [name for name in (*NEEDED, *programs) if shutil.which(name) is None]
        if lacking:
            return f"it needs {', '.join(lacking)}"
        ours = f"{sys.version_info.major}.{sys.version_info.minor}"
        found = subprocess.run(
            [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], check=False, **_PIPES
        )
        return "" if found.stdout.strip() == ours else f"{PYTHON} is not Python {ours}"

    def __enter__(self) -> "Box":
        self._home = Path(tempfile.mkdtemp(prefix="tm-box-", dir="/tmp"))
        self._home.chmod(0o755)
        unified = CGROUPS / "unified"
        self._cgroup = (unified if unified.is_dir() else CGROUPS) / self._home.name
        self._log = self._home / "boot.log"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._boot(self._lay_out())
        except BaseException:
            self.__exit__()
            raise
        return self

    def _lay_out(self) -> Path:
        """Create the directory that is the upper layer over the machine's root."""
        upper = self._home / "upper"
        upper.mkdir()
        for name, content in self._files.items():
            path = upper / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            path.chmod(0o755 if content.startswith("#!") else 0o644)
        for folder in [upper, *(path for path in upper.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
        (self._home / "work").mkdir()
        return upper

    def _boot(self, upper: Path) -> None:
        try:
            self._cgroup.mkdir()
        except OSError as error:
            raise CannotBoot(f"no control group of its own: {error}") from error
        shown = [str(end) for pair in self._shown.items() for end in pair]
        namespaces = ["--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--propagation", "private"]
        inner = ["unshare", *namespaces, "--fork", "--kill-child", "bash", SCRIPT, self._home / "work", upper, *shown]
        enter = f'echo $$ > {self._cgroup}/cgroup.procs && exec "$@"'
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", enter, "bash", *map(str, inner)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")

        def booted() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise CannotBoot(self._log.read_text())
            self._pid = children.read_text().strip()
            return bool(self._pid) and self.run("systemctl", "is-system-running").stdout.strip() in (
                "running",
                "degraded",
            )

        try:
            eventually(booted)
        except AssertionError as error:
            raise CannotBoot(self._log.read_text()) from error

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)  # `unshare` ends PID 1, which ends all other processes
            self._process.wait(60)
        if self._cgroup.is_dir():
            eventually(lambda: not (self._cgroup / "cgroup.procs").read_text() and self._remove_cgroups())
        shutil.rmtree(self._home)

    def _remove_cgroups(self) -> bool:
        try:
            for folder, _, _ in os.walk(self._cgroup, topdown=False):
                Path(folder).rmdir()
        except OSError:
            return False  # a process in it has not ended yet
        return True

    # --- in the box ---------------------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs a program in the box, as root."""
        return ["nsenter", "-t", self._pid, "-a", *arguments]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(self.command(*arguments), check=False, **_PIPES)

    def do(self, *arguments: str) -> str:
        """Run a program that must succeed; return its output."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}{self._journal_tail()}"
        return done.stdout

    def _journal_tail(self) -> str:
        """Return the end of the box's journal, which has the error of a failed unit."""
        return self.run("journalctl", "--no-pager", "--lines=40", "--output=short-precise").stdout

    def paste(self, block: str, folder: str = "/root", **more: str) -> str:
        """Run a block of a page in a shell of root, in this folder; each line must succeed."""
        variables = (f"{name}={value}" for name, value in {**ROOTS_SHELL, **more}.items())
        shell = ("bash", "-euv", "-o", "pipefail", "-c", block)
        return self.do("env", "--ignore-environment", f"--chdir={folder}", *variables, *shell)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.do("systemctl", "show", "--value", "--property", name, unit).strip()

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Return the matching journal entries with all of their fields, also those that are not written yet."""
        self.do("journalctl", "--sync")
        text = self.do("journalctl", "--no-pager", "--all", "--output=json", *matches)
        return [json.loads(line) for line in text.splitlines()]


@contextmanager
def booted(files: Mapping[str, str], shown: Mapping[Path, str], *programs: str) -> Iterator[Box]:
    """Yield a box. Skip the test if this machine cannot boot one, or lacks one of these programs."""
    if missing := Box.missing(*programs):
        pytest.skip(f"NOT TESTED UNDER A REAL SYSTEMD: {missing}")
    try:
        with Box(files, shown) as box:
            yield box
    except CannotBoot as error:
        pytest.skip(f"NOT TESTED UNDER A REAL SYSTEMD: it does not boot here: {error}")


_PIPES: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "capture_output": True,
    "text": True,
    "timeout": 300,
}
