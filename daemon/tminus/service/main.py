"""Run the daemon: handle signals, load the configuration, and return the exit code."""

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
from tminus.service.clock_choice import TestClockStart
from tminus.service.daemon import RETRY_AFTER, Daemon
from tminus.service.reload import log_config_problems
from tminus.service.run_marker import Crash, RunMarker
from tminus.service.signals import StartSignals
from tminus.system.privileges import become_controller


def run(
    path: Path | None, environ: Mapping[str, str], signals: StartSignals, test_clock: TestClockStart | None = None
) -> int:
    """Run the daemon until a signal stops it; return the exit code. `signals` has the signals received so far.

    `test_clock`: run on a test clock.

    Problems of the configuration are logged if a service manager has started the daemon; otherwise this raises
    `ConfigError`.
    """
    _open_standard_streams()
    output.configure()

    def stop(*_: object) -> None:
        signals.stopping.set()  # a library that is running may swallow the exception
        raise _StoppedAtOnce

    _on_stop_signals(stop)
    try:
        if signals.stopping.is_set():
            stop()
        return _run(path, environ, signals, test_clock)
    except _StoppedAtOnce:
        log("daemon.stopped")
        return 0
    finally:
        output.flush()


def _open_standard_streams() -> None:
    """Open closed standard streams on /dev/null. Otherwise the database could get the descriptor of one of them, and
    what a library prints would be written into the database.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


class _StoppedAtOnce(BaseException):
    """Raised by a signal to stop that arrives before the daemon is built. What was started is then stopped."""


def _on_stop_signals(call: Callable[..., object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, call)


def _run(
    path: Path | None, environ: Mapping[str, str], signals: StartSignals, test_clock: TestClockStart | None
) -> int:
    try:
        configuration = config.load(config.find(path, environ), environ)
    except ConfigError as error:
        if not _is_service(environ):
            raise
        log_config_problems(error)
        count = len(error.problems)
        log("daemon.failed", error=f"the configuration has {count} error{'s' * (count != 1)}")
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
            Daemon(configuration, path, state, environ, signals, test_clock) as daemon,
        ):
            _on_stop_signals(lambda *_: signals.stopping.set())  # until the event loop has handlers
            daemon.services.metrics.crashed.set(crashed)
            uvloop.run(daemon.serve())
    except (StartupError, ConfigError) as error:
        log("daemon.failed", error=error.description)
        return 1
    log("daemon.stopped")
    return 0


@contextmanager
def _marked(configuration: Configuration, state: Path, environ: Mapping[str, str]) -> Iterator[bool]:
    """Lock the state directory, and keep a marker file in it, which remains if this run crashes.

    Logs the start, and before it a crash of the previous run. Yields whether there was such a crash.
    """
    with ExitStack() as held:
        try:
            config.check_ownership(state, environ)
            become_controller(state)
            _lock(configuration, state, held)
        except StartupError:
            _log_start(configuration, state)
            raise
        marker = RunMarker(state)
        if marker.crash is not None:
            _log_crash(marker.crash)
        _log_start(configuration, state)
        clean = False
        try:
            yield marker.crash is not None
            clean = True
        except (StartupError, ConfigError, _StoppedAtOnce):
            clean = True
            raise
        finally:
            marker.end(clean=clean)


def _lock(configuration: Configuration, state: Path, held: ExitStack) -> None:
    """Take the locks. While the disk is full or read-only, wait; the reason is logged once."""
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
        time.sleep(RETRY_AFTER)  # a signal to stop ends this, as its handler raises


def _log_crash(crash: Crash) -> None:
    log(
        "daemon.crashed",
        previous_pid=crash.pid,
        previous_version=crash.version,
        cause=crash.cause,
        last_alive=timestamps.text(crash.last_alive),
        away_s=round(crash.away.total_seconds()),
    )


def _log_start(configuration: Configuration, state: Path) -> None:
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
    """Return whether a service manager has started the daemon, so that errors must go to the log."""
    return bool(environ.get("NOTIFY_SOCKET")) or is_journal(sys.stdout, environ.get("JOURNAL_STREAM", ""))
