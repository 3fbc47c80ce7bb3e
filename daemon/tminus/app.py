"""A run of the daemon: its signals, its configuration, its exit code."""

import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import uvloop

from tminus import __version__, config, logs
from tminus.config import ConfigError
from tminus.daemon import Daemon, tell_faults
from tminus.errors import StartupError, printable
from tminus.journal import is_journal
from tminus.logs import say
from tminus.privileges import become_controller


def run(path: Path | None, environ: Mapping[str, str], stopping: threading.Event) -> int:
    """Runs the daemon until a signal ends it; returns the exit code. `stopping` is set if one has come already.

    A configuration with faults is told in the log of a service; otherwise it raises `ConfigError`.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload before there is anything to reload must not end it
    logs.configure()

    def stop(*_: object) -> None:
        stopping.set()  # what is raised in the midst of a library may be lost there
        raise _StoppedAtOnce

    _when_told_to_stop(stop)
    try:
        if stopping.is_set():
            stop()
        return _run(path, environ, stopping)
    except _StoppedAtOnce:
        say("daemon.stopped")
        return 0


class _StoppedAtOnce(BaseException):
    """Told to stop before it served anybody; what had begun is undone on the way out."""


def _when_told_to_stop(call: Callable[..., object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, call)


def _run(path: Path | None, environ: Mapping[str, str], stopping: threading.Event) -> int:
    try:
        configuration = config.load(config.find(path, environ), environ)
    except ConfigError as error:
        if not _is_service(environ):
            raise
        tell_faults(error)
        say("daemon.failed", error=f"the configuration has {len(error.faults)} faults")
        return 1
    settings = configuration.settings
    logs.configure(settings.log.level, settings.log.format)
    try:
        state = config.state_directory(environ)
    except StartupError as error:
        say("daemon.failed", error=error.description)
        return 1
    path_read = printable(configuration.path or "built-in defaults")
    say("daemon.starting", version=__version__, config=path_read, state=printable(state))
    try:
        config.check_ownership(state, environ)
        become_controller(state)
        occupied = config.occupy(state, config.database_file(settings, state))
        with occupied, Daemon(configuration, path, state, environ, stopping) as daemon:
            _when_told_to_stop(lambda *_: stopping.set())  # until it has handlers in the event loop
            uvloop.run(daemon.serve())
    except (StartupError, ConfigError) as error:
        say("daemon.failed", error=error.description)
        return 1
    say("daemon.stopped")
    return 0


def _is_service(environ: Mapping[str, str]) -> bool:
    """Whether it is a service manager that reads what is said, not whoever has started it by hand."""
    return bool(environ.get("NOTIFY_SOCKET")) or is_journal(sys.stdout, environ.get("JOURNAL_STREAM", ""))
