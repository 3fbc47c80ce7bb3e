"""A run of the daemon: its signals, its configuration, its exit code."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from tminus import __version__, config
from tminus.config import ConfigError, Configuration
from tminus.domain import timestamps
from tminus.domain.errors import StartupError, printable
from tminus.logs import output
from tminus.logs.journald import is_journal
from tminus.logs.output import log
from tminus.service.daemon import RETRY_AFTER, Daemon
from tminus.service.reload import log_config_problems
from tminus.service.running import Crash, Running
from tminus.service.signals import StartSignals
from tminus.system.privileges import become_controller


def run(path: Path | None, environ: Mapping[str, str], signals: StartSignals) -> int:
    """Runs the daemon until a signal ends it; returns the exit code. `told` has noted the signals that came already.

    A configuration with faults is told in the log of a service; otherwise it raises `ConfigError`.
    """
    _open_standard_streams()
    output.configure()

    def stop(*_: object) -> None:
        signals.stopping.set()  # what is raised in the midst of a library may be lost there
        raise _StoppedAtOnce

    _when_told_to_stop(stop)
    try:
        if signals.stopping.is_set():
            stop()
        return _run(path, environ, signals)
    except _StoppedAtOnce:
        log("daemon.stopped")
        return 0
    finally:
        output.flush()


def _open_standard_streams() -> None:
    """Put the null device in the place of streams that are closed: else the database would be opened as one of them,
    and whatever a library prints would go into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


class _StoppedAtOnce(BaseException):
    """Told to stop before it served anybody; what had begun is undone on the way out."""


def _when_told_to_stop(call: Callable[..., object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, call)


def _run(path: Path | None, environ: Mapping[str, str], signals: StartSignals) -> int:
    try:
        configuration = config.load(config.find(path, environ), environ)
    except ConfigError as error:
        if not _is_service(environ):
            raise
        log_config_problems(error)
        log("daemon.failed", error=f"the configuration has {len(error.problems)} errors")
        return 1
    settings = configuration.settings
    output.configure(settings.log.level, settings.log.format)
    try:
        state = config.state_directory(environ)
    except StartupError as error:
        log("daemon.failed", error=error.description)
        return 1
    try:
        with (
            _marked(configuration, state, environ) as crashed,
            Daemon(configuration, path, state, environ, signals) as daemon,
        ):
            _when_told_to_stop(lambda *_: signals.stopping.set())  # until it has handlers in the event loop
            daemon.services.metrics.crashed.set(crashed)
            uvloop.run(daemon.serve())
    except (StartupError, ConfigError) as error:
        log("daemon.failed", error=error.description)
        return 1
    log("daemon.stopped")
    return 0


@contextmanager
def _marked(configuration: Configuration, state: Path, environ: Mapping[str, str]) -> Iterator[bool]:
    """Keep others out of the state directory, and leave a mark there if this run ends as nobody has meant it to.

    Yields whether the run before crashed. Logs that it starts, after how the run before has ended if that was no clean
    stop.
    """
    with ExitStack() as held:
        try:
            config.check_ownership(state, environ)
            become_controller(state)
            _occupy(configuration, state, held)
        except StartupError:
            _tell_start(configuration, state)
            raise
        running = Running(state)
        if running.crash is not None:
            _tell_crash(running.crash)
        _tell_start(configuration, state)
        clean = False
        try:
            yield running.crash is not None
            clean = True
        except (StartupError, ConfigError, _StoppedAtOnce):
            clean = True
            raise
        finally:
            running.end(clean=clean)


def _occupy(configuration: Configuration, state: Path, held: ExitStack) -> None:
    """Takes the locks; waits for a disk that is full or read-only."""
    failing: str | None = None
    while True:
        try:
            held.enter_context(config.lock(state, config.database_file(configuration.settings, state)))
        except StartupError as error:
            if not error.transient:
                raise
            if error.description != failing:
                failing = error.description
                log("storage.unavailable", error=failing)
        else:
            return
        time.sleep(RETRY_AFTER)  # a signal to stop ends this


def _tell_crash(crash: Crash) -> None:
    log(
        "daemon.crashed",
        previous_pid=crash.pid,
        previous_version=crash.version,
        cause=crash.cause,
        last_alive=timestamps.text(crash.last_alive),
        away_s=round(crash.away.total_seconds()),
    )


def _tell_start(configuration: Configuration, state: Path) -> None:
    log(
        "daemon.starting",
        version=__version__,
        pid=os.getpid(),
        host=socket.gethostname(),
        config=printable(configuration.path or "built-in defaults"),
        config_files=[printable(file) for file in configuration.files],
        config_fingerprint=configuration.fingerprint,
        state=printable(state),
    )


def _is_service(environ: Mapping[str, str]) -> bool:
    """Whether it is a service manager that reads what is said, not whoever has started it by hand."""
    return bool(environ.get("NOTIFY_SOCKET")) or is_journal(sys.stdout, environ.get("JOURNAL_STREAM", ""))
