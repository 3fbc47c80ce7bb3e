"""Run the command as a process that starts quickly: it is forked from a process that has imported all modules.

The imports of a hundred starts would take most of the time of all tests. The forked process runs the installed command,
from its arguments to its exit code, with its own environment, directory and files. Tests that need a new process
(`LD_PRELOAD`, a terminal, the tour, the kill test) start one.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

TMINUS = str(Path(sys.executable).with_name("tminus"))
"""The command that belongs to this Python, whatever else is on the PATH."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.support.preloaded"])


class Process(Protocol):
    """The part of `subprocess.Popen` that tests use."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def start(
    arguments: Sequence[str], environ: Mapping[str, str], folder: Path, out: Path, err: Path, *, fresh: bool = False
) -> Process:
    """Start the command; append its output to two files."""
    if fresh or "LD_PRELOAD" in environ:
        with out.open("ab") as output, err.open("ab") as errors:
            return subprocess.Popen(
                [TMINUS, *arguments],
                env=environ, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
            )  # fmt: skip
    return _Forked(CONTEXT.Process(target=_run, args=(list(arguments), dict(environ), str(folder), str(out), str(err))))


def _run(arguments: list[str], environ: dict[str, str], folder: str, out: str, err: str) -> None:
    """Set up the new process as a shell would have started it."""
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    for path, number in ((os.devnull, 0), (out, 1), (err, 2)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    sys.argv = [TMINUS, *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from tminus.cli import main

    main()


class _Forked:
    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        process.start()
        assert process.pid is not None
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(TMINUS, timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
